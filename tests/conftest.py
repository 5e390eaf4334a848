"""What every test has: threads as a run sets them, in this process and in those that it starts."""

import os

from dreammpc.launch import share_cores

share_cores()  # before torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several tests at once, and models that are narrow

from dreammpc.threads import set_threads  # noqa: E402

set_threads(0)

"""torchrun with exit codes that mean something.

`python -m torch.distributed.run` ends with 1 and a screenful of report whatever a worker's exit code was.
Here the first failure's exit code is passed on, and all that follows what the worker wrote is one line.
"""

import logging
import os
import sys
from collections.abc import Sequence

from torch.distributed import DistError
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import RendezvousError


def run(arguments: Sequence[str]) -> int:
    """Run a script in several processes until the last one ends.

    SIGINT, SIGTERM and SIGUSR1 go on to every worker, which has a minute to save and end
    (`TORCH_ELASTIC_SHUTDOWN_TIMEOUT`). When one worker fails the others get SIGTERM.

    Args:
        arguments: torchrun's options, the script and its arguments.

    Returns:
        0, or the exit code of the worker that failed first (128 + n if signal n ended it or this process),
        or 1 where the processes did not find each other.
    """
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "60")
    os.environ.setdefault("PET_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1")
    os.environ["DREAMMPC_LAUNCHER"] = str(os.getpid())  # whose end the workers do not outlive
    if "LOGLEVEL" not in os.environ:  # torchrun's own switch; unset, its report of every stop is only noise
        logging.disable(logging.ERROR)
    try:
        torchrun.run(torchrun.parse_args(list(arguments)))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        code = failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode
        print(f"lightning: process {rank} ended with exit code {code}; all are stopped", file=sys.stderr)
        return code
    except SignalException as stop:
        return 128 + stop.sigval
    except (RendezvousError, DistError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        print(f"lightning: the processes did not find each other: {reason}", file=sys.stderr)
        return 1
    return 0

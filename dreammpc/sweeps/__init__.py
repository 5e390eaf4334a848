"""Many trainings from one command: which tasks, which runs are left to do, several at a time.

tasks    names of sets → tasks; what is not installed
jobs     the grid, and what is done of it
local    processes on this machine
parent   the MLflow run that the trainings' runs are under
schema   the recipe's configuration
"""

from dreammpc.sweeps.jobs import Job, grid, reserve_folder
from dreammpc.sweeps.local import Runner
from dreammpc.sweeps.parent import parent_run
from dreammpc.sweeps.schema import SweepConfig
from dreammpc.sweeps.tasks import TASK_SETS, check_installed, expand

__all__ = [
    "TASK_SETS",
    "Job",
    "Runner",
    "SweepConfig",
    "check_installed",
    "expand",
    "grid",
    "parent_run",
    "reserve_folder",
]

"""Names of tasks as names of files and folders."""

import re


def file_name(task: str) -> str:
    """`task` as a name that every system takes: `gym-package-Name-v0` for `gym-package:Name-v0`."""
    return re.sub(r"[^\w.+=@-]+|^\.+", "-", task)

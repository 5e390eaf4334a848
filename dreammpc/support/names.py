"""Names of tasks as names of files and folders; texts of files as a terminal may show them."""

import re


def file_name(task: str) -> str:
    """`task` as a name that every system takes: `gym-package-Name-v0` for `gym-package:Name-v0`."""
    return re.sub(r"[^\w.+=@-]+|^\.+", "-", task)


def printable(text: str) -> str:
    """`text` with what steers a terminal or cannot be shown written as escapes, all but line ends."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)

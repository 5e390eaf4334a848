"""Ctrl-C in a recipe that is still importing: one word in place of a traceback. Imports nothing slow."""

import sys
from types import TracebackType

STARTING = "DREAMMPC_STARTING"
"""Of the environment: the launcher has started this process, which has yet to import the package."""


def tell_interrupt(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As `sys.excepthook`: exit code 130 for KeyboardInterrupt; other exceptions are told as ever."""
    if not issubclass(kind, KeyboardInterrupt):
        return sys.__excepthook__(kind, error, trace)
    print("interrupted", file=sys.stderr)
    sys.exit(130)

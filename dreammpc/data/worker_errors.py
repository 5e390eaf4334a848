"""Exceptions of a worker process, passed to its parent in a file."""

import functools
import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dreammpc.interfaces import ForeignError, RunError
from dreammpc.support.faults import error_line, raised_by_foreign_code

EXIT = 81
"""Exit code of a worker that has written a report."""


class WorkerTraceback(Exception):
    """A traceback of another process, as the cause of what is raised in this one."""


def reporting_errors(function: Callable[..., Any], folder: str | None) -> Callable[..., Any]:
    """`function` for a worker: what it raises goes to a file in `folder` and ends the process."""
    if folder is None:
        return function

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except (Exception, SystemExit) as error:
            if isinstance(error, SystemExit) and not raised_by_foreign_code(error):
                raise
            content = {"line": error_line(error), "traceback": "".join(traceback.format_exception(error))}
            draft = Path(folder) / f"{os.getpid()}.tmp"
            draft.write_text(json.dumps(content), encoding="utf-8")
            draft.rename(draft.with_suffix(".json"))
            os._exit(EXIT)

    return call


def read_worker_error(folder: str) -> RunError | None:
    """What a worker has written, as an error of this process; None if nothing was."""
    for path in sorted(Path(folder).glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        path.unlink()
        error = ForeignError(f"in a worker: {content['line']}")
        error.__cause__ = WorkerTraceback(f"\n{content['traceback']}")
        return error
    return None

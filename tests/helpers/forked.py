"""Commands in processes of their own, forked from one that has imported the package: a start in no time.

What such a process sees is its own: folder, environment, `sys.path`, registries, signals. It differs from
`python -m dreammpc.cli` in what it finds imported, and in that it runs a recipe instead of becoming it.
"""

import os
import runpy
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path
from subprocess import CompletedProcess
from typing import NoReturn

CONTEXT = ForkServerContext()
CONTEXT.set_forkserver_preload(["dreammpc.configuration.assembly", "dreammpc.configuration.recipe"])


class Forked:
    """`dreammpc WORDS` in the folder `cwd`, which imports from `path` first."""

    def __init__(self, *words: str, cwd: Path, path: Sequence[Path | str] = ()):
        self.words = words
        self._files = [tempfile.NamedTemporaryFile() for _ in "oe"]  # noqa: SIM115
        arguments = words, str(cwd), [str(each) for each in path], dict(os.environ)
        arguments = *arguments, [file.name for file in self._files]
        self._process = CONTEXT.Process(target=_begin, args=arguments)
        self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def wait(self) -> CompletedProcess:
        """Until it has ended; what it said."""
        self._process.join()
        texts = [Path(file.name).read_text() for file in self._files]
        return CompletedProcess(self.words, self._process.exitcode, *texts)


def _begin(
    words: Sequence[str],
    cwd: str,
    path: list[str],
    environment: Mapping[str, str],
    files: list[str],
) -> None:
    for number, name in zip((1, 2), files, strict=True):
        os.dup2(os.open(name, os.O_WRONLY), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = path
    sys.argv = ["dreammpc", *words]

    from dreammpc.cli import launch, parser

    launch.replace_process = _become
    parser.main(words)


def _become(command: list[str]) -> NoReturn:
    sys.argv = command[1:]
    sys.path.insert(0, str(Path(command[1]).parent))
    runpy.run_path(command[1], run_name="__main__")
    sys.exit(0)

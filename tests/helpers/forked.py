"""Programs in processes of their own, forked from one that has imported the package: a start in no time.

What such a process sees is its own: folder, environment, `sys.path`, registries, signals, graphics. It
differs from a new one in what it finds imported, in that it runs a recipe instead of becoming it, and in that
nothing registered with `atexit` is called.
"""

import os
import runpy
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from subprocess import CompletedProcess
from typing import NoReturn

CONTEXT = ForkServerContext()
CONTEXT.set_forkserver_preload(["dreammpc.configuration.assembly", "dreammpc.configuration.recipe"])
GRAPHICS = ("MUJOCO_GL", "PYOPENGL_PLATFORM")


def unchosen() -> dict[str, str]:
    """The environment, in which no graphics are chosen yet."""
    return {name: value for name, value in os.environ.items() if name not in GRAPHICS}


class Forked:
    """`dreammpc WORDS` in the folder `cwd`, which imports from `path` first.

    Args:
        begin: what is called with the words; by default the command.
        environment: by default this process's.
    """

    def __init__(
        self,
        *words: str,
        cwd: Path | str = ".",
        path: Sequence[Path | str] = (),
        begin: "Callable[[Sequence[str]], object] | None" = None,
        environment: Mapping[str, str] | None = None,
    ):
        self.words = words
        self._files = [tempfile.NamedTemporaryFile() for _ in "oe"]  # noqa: SIM115
        about = str(cwd), [str(each) for each in path], dict(environment or os.environ)
        arguments = begin or _command, words, *about, [file.name for file in self._files]
        chosen = dict(os.environ)
        os.environ.pop("MUJOCO_GL", None)  # the server imports MuJoCo, which looks at it
        try:
            forkserver.ensure_running()
        finally:
            os.environ.update(chosen)
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


def start_python(code: str, path: Sequence[Path | str] = (), **environment: str) -> Forked:
    """Starts a script where no graphics are chosen yet, unless `environment` does."""
    return Forked(code, path=path, begin=_execute, environment=unchosen() | environment)


def run_python(code: str, path: Sequence[Path | str] = (), **environment: str) -> CompletedProcess:
    """The same, until it has ended."""
    return start_python(code, path, **environment).wait()


def _begin(
    act: Callable[[Sequence[str]], object],
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
    act(words)


def _execute(words: Sequence[str]) -> None:
    exec(words[0], {"__name__": "__main__"})


def _command(words: Sequence[str]) -> None:
    sys.argv = ["dreammpc", *words]

    from dreammpc.cli import launch, parser

    launch.replace_process = _become
    parser.main(words)


def _become(command: list[str]) -> NoReturn:
    sys.argv = command[1:]
    sys.path.insert(0, str(Path(command[1]).parent))
    runpy.run_path(command[1], run_name="__main__")
    sys.exit(0)

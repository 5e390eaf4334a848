"""How a function runs: as it is written, recorded (`recording.py`), compiled, or captured as a CUDA graph."""

import itertools
import os
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dreammpc.interfaces import UsageError
from dreammpc.plugins.registry import unknown

MODES = ("off", "recorded", "default", "graphs")
"""`off` is eager; `recorded` repeats the operations of a first plan, and updates are eager; `default` is
`torch.compile`; `graphs` captures what was compiled as CUDA graphs."""

_number = itertools.count()


def compile_mode(value: Any, name: str = "compile") -> str | None:
    """One of `MODES` for what a user wrote: its name, true (`default`), false (`off`), or None, left open.

    Raises:
        UsageError: it is none of these.
    """
    if value is None or str(value).lower() in ("none", "null", "auto"):
        return None
    mode = {"true": "default", "false": "off"}.get(str(value).lower(), str(value))
    if mode not in MODES:
        raise UsageError(unknown(f"{name} {value!r}", mode, list(MODES)))
    return mode


def compiled(function: Callable, mode: bool | str = True, backend: str = "inductor") -> Callable:
    """`function` under `torch.compile` as one graph; in modes `off` (or False) and `recorded` as it is.

    What cannot be one graph is an error and not a slow run. Every call of this gives a function with a code
    object of its own: torch compiles a code object only a few times (`recompile_limit`), and all agents of a
    process would share the limit, and the shapes that were seen before, if they shared the code.

    Args:
        function: best a plain function; another callable is compiled without a code object of its own.
        mode: see `MODES`.
        backend: of `torch.compile`.
    """
    if compile_mode(mode) in (None, "off", "recorded"):
        return function
    keep_compiled()
    if not isinstance(function, types.FunctionType):
        return torch.compile(function, fullgraph=True, backend=backend)
    code = function.__code__
    own = types.FunctionType(
        code.replace(co_name=f"{code.co_name}_{next(_number)}"),
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    own.__kwdefaults__, own.__module__ = function.__kwdefaults__, function.__module__
    return torch.compile(own, fullgraph=True, backend=backend)


def keep_compiled() -> None:
    """Have torch keep what it compiles in the user's cache folder, and not where a reboot deletes it.

    TORCHINDUCTOR_CACHE_DIR, if set, says otherwise; so does a folder that cannot be made.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(cache) / "dreammpc" / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    # torch writes its own default into the variable when anything asks for the folder.
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR") in (None, default_cache_dir()):
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)

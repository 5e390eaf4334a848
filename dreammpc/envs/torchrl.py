"""TorchRL's environments as tasks: `torchrl:package.module:factory`.

The factory is called and gives an `EnvBase` of any batch size on any device. An installed package offers
names of its own by the entry-point group `dreammpc.torchrl`: `torchrl:NAME`.
"""

import inspect
import logging
import warnings
from collections.abc import Mapping
from typing import Any

from torchrl.envs import EnvBase
from torchrl.envs.utils import check_env_specs

from dreammpc.envs.drawing import observed
from dreammpc.envs.torchrl_env import TorchRLEnv
from dreammpc.envs.torchrl_specs import heeds_masks
from dreammpc.interfaces import ForeignError, RunError, UsageError
from dreammpc.plugins.registry import Registry
from dreammpc.runtime.devices import forked_rng
from dreammpc.support.faults import exception_line

PREFIX = "torchrl:"
FACTORIES = Registry("TorchRL environment", "dreammpc.torchrl")
_checked: dict[str, bool] = {}
"""Tasks, with their arguments, whose specs this process has found to hold; and whether they heed masks."""


def make(
    task: str,
    num_envs: int,
    *,
    action_repeat: int | None,
    render: bool,
    obs: str,
    kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: int | None = None,
    action_bound: float | None = None,
) -> TorchRLEnv:
    """Make what the factory of `torchrl:package.module:factory` gives, at least `num_envs` rows of it.

    The factory is told `num_envs`, or `batch_size=[num_envs]`, if it has a parameter of that name; `kwargs`
    say otherwise. If it gives fewer rows, it is called again until there are enough.

    Raises:
        UsageError: no such factory, arguments that it does not take, no `EnvBase`, specs that do not hold
            (TorchRL's `check_env_specs`), and what `TorchRLEnv` refuses.
        ForeignError: the factory raises something.
    """
    if observed(obs) != ("observation",):
        raise UsageError(f"obs={obs}: of TorchRL's environments numbers are learned from: env.obs=state")
    if action_repeat not in (None, 1):
        raise UsageError(f"task {task!r} takes no env.action_repeat: its factory says how often it repeats")
    factory, own = FACTORIES[task.removeprefix(PREFIX).replace(":", ".")], dict(kwargs or {})
    if not callable(factory):
        raise UsageError(f"task {task!r}: expected a function or class, got {type(factory).__name__}")
    signature = _signature(factory)
    taken = signature.parameters if signature else {}
    if "num_envs" in taken:
        own.setdefault("num_envs", num_envs)
    elif "batch_size" in taken:
        own.setdefault("batch_size", [num_envs])
    envs = [_made(task, factory, own)]
    made = f"{task} {sorted(own.items(), key=str)}"
    _check(envs[0], task, made)
    envs += [_made(task, factory, own) for _ in range(1, -(-num_envs // envs[0].batch_size.numel()))]
    env = TorchRLEnv(envs, task, max_episode_steps, action_bound)
    env.heeds_masks = _checked[made]
    if not env.limited:
        warnings.warn(
            f"task {task!r} has no time limit: episodes are cut off after {env.max_episode_steps} steps",
            stacklevel=2,
        )
    return env


def list_tasks() -> list[str]:
    """Those that installed packages offer by name; any other factory can be had as well."""
    return [PREFIX + name for name in FACTORIES]


def _signature(factory: Any) -> inspect.Signature | None:
    """Of a class that of its constructor: TorchRL's metaclass hides it."""
    try:
        signature = inspect.signature(factory.__init__ if inspect.isclass(factory) else factory)
    except (TypeError, ValueError):
        return None
    parameters = list(signature.parameters.values())
    return signature.replace(parameters=parameters[inspect.isclass(factory) :])


def _made(task: str, factory: Any, own: dict[str, Any]) -> EnvBase:
    try:
        if (signature := _signature(factory)) is not None:
            signature.bind(**own)
    except TypeError as error:
        raise UsageError(f"task {task!r} cannot be made: {error} (env.kwargs)") from error
    try:
        env = factory(**own)
    except (UsageError, RunError):
        raise
    except ImportError as error:
        raise UsageError(f"task {task!r} cannot be made: {' '.join(str(error).split())}") from error
    except (Exception, SystemExit) as error:
        if isinstance(error, TypeError) and any(f"argument {key!r}" in str(error) for key in own):
            # said by what the factory hands its keywords on to
            raise UsageError(f"task {task!r} cannot be made: {error} (env.kwargs)") from error
        raise ForeignError(f"task {task!r} cannot be made: {exception_line(error)}") from error
    if not isinstance(env, EnvBase):
        raise UsageError(
            f"task {task!r} gave a {type(env).__name__}; expected a TorchRL environment (EnvBase)"
        )
    if not env.batch_size.numel():
        raise UsageError(f"task {task!r} gave an environment without rows: batch size {list(env.batch_size)}")
    return env


def _check(env: EnvBase, task: str, made: str) -> None:
    """Ask TorchRL whether the specs hold, and whether rows can be restarted apart, once a process."""
    if made in _checked:
        return
    logger = logging.getLogger("torchrl")
    level = logger.level
    try:
        with forked_rng(env.device), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logger.setLevel(logging.WARNING)  # it says on stdout that all is well
            check_env_specs(env, seed=0)
            _checked[made] = heeds_masks(env)
    except (AssertionError, KeyError, TypeError, ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())
        raise UsageError(f"task {task!r}: its specs do not hold (check_env_specs): {text[:300]}") from error
    except (Exception, SystemExit) as error:
        raise ForeignError(f"task {task!r}: check_env_specs: {exception_line(error)}") from error
    finally:
        logger.setLevel(level)

"""From plain values to the objects of a run: what the recipes share, and how a script loads an agent."""

import inspect
from pathlib import Path
from typing import Any

from dreammpc.agent import Agent
from dreammpc.algorithms.tdmpc2 import TDMPC2, heuristic_discount
from dreammpc.data import Feed, Replay, make_collector
from dreammpc.envs import BatchedEnv, make_env
from dreammpc.interfaces import UsageError
from dreammpc.models import TDMPC2Model
from dreammpc.planning import PLANNERS, make_planner
from dreammpc.training.checkpoint import DESCRIPTION, load_checkpoint

NO_TIME_LIMIT = 500
"""Episode length in agent steps that is assumed where an environment has none."""


def episode_length(env: BatchedEnv) -> int:
    """Agent steps of a whole episode."""
    return env.max_episode_steps or NO_TIME_LIMIT


def build_env(task: str, seed: int, num_envs: int = 1, action_repeat: int | None = None) -> BatchedEnv:
    """`make_env`, with its ValueError turned into a UsageError."""
    try:
        return make_env(task, num_envs, seed, action_repeat)
    except ValueError as error:
        raise UsageError(str(error)) from error


def build_model(env: BatchedEnv, size: dict[str, Any], discount: float | None = None) -> TDMPC2Model:
    """A world model for the spaces of `env`.

    Args:
        size: widths as in `dreammpc.models.SIZES`; a `name` in it is ignored.
        discount: γ per agent step; `None` takes the heuristic for the episode length.

    Raises:
        UsageError: widths that do not fit together.
    """
    try:
        return TDMPC2Model(
            obs_dim=env.observation_spec["observation"].shape[-1],
            action_dim=env.action_spec.shape[-1],
            discount=heuristic_discount(episode_length(env)) if discount is None else discount,
            **without_name(size),
        )
    except ValueError as error:
        raise UsageError(f"model: {error}") from error


def build_planner(settings: dict[str, Any], action_dim: int) -> Any:
    """The planner called `settings["name"]`.

    Raises:
        UsageError: an unknown planner, an unknown setting or a bad value.
    """
    try:
        return make_planner(settings["name"], action_dim, **without_name(settings))
    except (ValueError, TypeError) as error:
        raise UsageError(f"planner {settings['name']}: {error}") from error


def build_planners(names: list[str], action_dim: int) -> dict[str, Any]:
    """Planners of those names with their own defaults."""
    return {name: build_planner({"name": name}, action_dim) for name in names}


def settings_for(name: str, given: dict[str, Any], among: list[str]) -> dict[str, Any]:
    """Those of the `given` settings that the planner called `name` has.

    Raises:
        UsageError: a setting that none of the planners in `among` has.
    """
    for key in given:
        if not any(key in planner_settings(other) for other in among):
            raise UsageError(f"planner setting {key!r}: none of {', '.join(among)} has it")
    return {key: value for key, value in given.items() if key in planner_settings(name)}


def planner_settings(name: str) -> set[str]:
    """Names of the settings of the planner called `name`; none for an unknown one."""
    return set(getattr(PLANNERS.get(name), "__dataclass_fields__", ())) - {"action_dim"}


def update_settings(algorithm: dict[str, Any]) -> dict[str, Any]:
    """Those settings that the LightningModule takes; the others concern data and schedule."""
    known = inspect.signature(TDMPC2).parameters
    return {key: value for key, value in algorithm.items() if key in known}


def build_feed(env: BatchedEnv, agent: Agent, env_steps: int, seed: int, algorithm: dict[str, Any]) -> Feed:
    """Collector and replay of `agent` in `env`, as the feed of a Trainer.

    Args:
        env_steps: environment steps after which the feed ends.
        seed: of the replay's draws.
        algorithm: with `capacity`, `horizon`, `batch_size`, `utd` and `seed_steps`; `None` for the last is
            five episodes of random action, at least 1000 agent steps.
    """
    total_steps = env_steps // env.action_repeat
    capacity = min(algorithm["capacity"], total_steps + env.num_envs)
    seed_steps = algorithm["seed_steps"]
    return Feed(
        make_collector(env, agent),
        agent,
        Replay(capacity, env.num_envs, algorithm["horizon"], algorithm["batch_size"], seed),
        seed_steps=max(1000, 5 * episode_length(env)) if seed_steps is None else seed_steps,
        total_steps=total_steps,
        utd=algorithm["utd"],
        action_repeat=env.action_repeat,
    )


def describe(
    task: str, model: TDMPC2Model, settings: dict[str, Any], overrides: list[str], **more: Any
) -> dict[str, Any]:
    """The plain facts that a checkpoint tells of itself: what `load_model` and resume need."""
    return {
        "task": task,
        "model": settings["model"],
        "obs_dim": model.obs_dim,
        "action_dim": model.action_dim,
        "discount": model.discount,
        "config": settings,
        "overrides": overrides,
        **more,
    }


def load_model(checkpoint: str | Path) -> tuple[TDMPC2Model, dict[str, Any]]:
    """The world model of a checkpoint, on the CPU, and the checkpoint's description.

    Raises:
        UsageError: no such file, or a damaged one.
    """
    content = load_checkpoint(checkpoint)
    facts = content[DESCRIPTION]
    widths = without_name(facts["model"])
    model = TDMPC2Model(facts["obs_dim"], facts["action_dim"], facts["discount"], **widths)
    prefix = "agent.model."
    weights = content["state_dict"].items()
    model.load_state_dict({key.removeprefix(prefix): w for key, w in weights if key.startswith(prefix)})
    return model, facts


def check_spaces(path: str | Path, facts: dict[str, Any], env: BatchedEnv) -> None:
    """Raise UsageError if the checkpoint at `path` was trained for other spaces than those of `env`."""
    has = (env.observation_spec["observation"].shape[-1], env.action_spec.shape[-1])
    needs = (facts["obs_dim"], facts["action_dim"])
    if has != needs:
        raise UsageError(
            f"checkpoint {path} was trained on task {facts['task']} with {needs[0]} observations and"
            f" {needs[1]} actions, but task {env.task} has {has[0]} and {has[1]}"
        )


def load_agent(checkpoint: str | Path, planner: str = "dream_mpc", **settings: Any) -> Agent:
    """A trained agent that acts greedily with the planner called `planner`.

    Example::

        agent = load_agent("runs/cartpole-swingup/…/checkpoints/best.ckpt", "mppi", num_samples=256)
    """
    model, facts = load_model(checkpoint)
    return Agent(model, build_planner({"name": planner, **settings}, facts["action_dim"]))


def without_name(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "name"}

"""What a run that goes on has in common with the one whose checkpoint it goes on from."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dreammpc import training
from dreammpc.configuration.assembly import check_spaces
from dreammpc.configuration.collectors import count_rows
from dreammpc.configuration.schemas import EnvConfig, TrainConfig
from dreammpc.envs import TaskEnv
from dreammpc.interfaces import UsageError
from dreammpc.models import LatentModel
from dreammpc.support.names import printable

log = logging.getLogger(__name__)

MIXED = ("kwargs", "max_episode_steps", "backend")
"""Settings of the environments that may change on the way: the replay then holds transitions of both."""


def open_resume(checkpoint: str | Path, config: TrainConfig) -> dict[str, Any]:
    """The description of the checkpoint that a run of this configuration goes on from.

    Raises:
        UsageError: no such file, a damaged one, or one of another task, model or algorithm, of other
            observations, actions or recorded data.
    """
    facts = training.open_resume(checkpoint, config.steps, task=config.task, model=asdict(config.model))
    stored = facts["config"]
    trained, asked = stored["algorithm"]["name"], config.algorithm.name
    if trained != asked:
        raise UsageError(f"checkpoint {checkpoint} has algorithm {trained}, not {asked}")
    before = stored.get("collector", {"kind": "serial", "workers": 1})  # of before there were workers
    rows = count_rows(stored["env"]["num_envs"], before["kind"], before["workers"])
    now = count_rows(config.env.num_envs, config.collector.kind, config.collector.workers)
    if rows != now:
        raise UsageError(
            f"checkpoint {checkpoint} collected in {rows} environments (env.num_envs, times collector.workers"
            f" unless collector=serial), not {now}"
        )
    made = {**asdict(EnvConfig()), **stored["env"]}
    episodic, ends = facts.get("episodic", False), config.algorithm.episodic
    must_agree = (
        ("env.obs", facts.get("obs", "state"), config.env.obs),
        ("env.normalize", facts.get("normalize", False), config.env.normalize),
        ("env.action_bound", made["action_bound"], config.env.action_bound),
        ("algorithm.episodic", episodic, episodic if ends is None else ends),
    )
    for name, was, wanted in must_agree:
        if was != wanted:
            raise UsageError(f"checkpoint {checkpoint} has {name}={_word(was)}, not {_word(wanted)}")
    if config.data.path is not None and stored.get("data", {}).get("path") is None:
        raise UsageError(
            f"checkpoint {checkpoint} is of a run without recorded data, and goes on without:"
            " leave data= out, or begin a new run with it (init= takes the weights)"
        )
    for name in MIXED:
        was, wanted = made[name], getattr(config.env, name)
        if was != wanted:
            log.warning(
                "checkpoint %s collected with env.%s=%s, now it is %s: the replay holds transitions of both",
                *(checkpoint, name, printable(_word(was)), _word(wanted)),
            )
    return facts


def check_resumed(
    checkpoint: str | Path | None, facts: dict[str, Any], env: TaskEnv, model: LatentModel
) -> None:
    """Hold the environments and the model that were made to what the checkpoint says.

    Another discount is said and taken: values are learned anew.

    Raises:
        UsageError: other spaces or another action repeat: transitions of both cannot be learned together.
    """
    check_spaces(checkpoint, facts, env)
    # Of the clock, since settings may leave the action repeat to the task's family.
    feed = facts["resume"]["ranks"][0].get("feed")
    decisions = feed.get("agent_steps") if isinstance(feed, dict) else None
    if isinstance(decisions, int) and decisions > 0 and facts["env_steps"] != decisions * env.action_repeat:
        was = facts["env_steps"] // decisions
        raise UsageError(
            f"checkpoint {checkpoint} collected with env.action_repeat={was}, not {env.action_repeat}"
        )
    if (before := facts.get("discount", model.discount)) != model.discount:
        log.warning(
            "checkpoint %s learned values of discount %g, now they are of %g (algorithm.discount, or the"
            " length of an episode)",
            *(checkpoint, before, model.discount),
        )


def _word(value: Any) -> str:
    """A setting's value as one types it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def start_seed(seed: int, resumed: Mapping[str, Any] | None) -> int:
    """The seed of the environments of a process with this `seed`.

    A run that goes on has another one than at its beginning. Environments whose state cannot be taken up
    again would repeat its first episodes with that one.
    """
    if not resumed or not resumed["env_steps"]:
        return seed
    (word,) = np.random.SeedSequence([seed, resumed["env_steps"]]).generate_state(1)
    return int(word) % 2**31

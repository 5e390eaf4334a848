"""From plain values to the objects of a run: what the recipes share."""

import inspect
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dreammpc.agent import EXPERT_KEYS, Agent
from dreammpc.algorithms import LatentAlgorithm, algorithm_class
from dreammpc.algorithms.losses import heuristic_discount
from dreammpc.algorithms.update_settings import UpdateSettings
from dreammpc.configuration.schemas import AlgorithmConfig, EnvConfig, TrainConfig
from dreammpc.data import Feed, Replay, check_replay_memory, make_collector, replay_bytes, replay_place
from dreammpc.data.demonstrations import Demonstrations
from dreammpc.envs import TaskEnv, make_env
from dreammpc.interfaces import UsageError
from dreammpc.models import LatentModel
from dreammpc.runtime.devices import choose_device
from dreammpc.runtime.threads import set_threads
from dreammpc.training.speed import Speed, choose_speed

log = logging.getLogger(__name__)

NO_TIME_LIMIT = 500
"""Episode length in agent steps that is assumed where an environment has none."""

QUICK = ("policy", "dream_mpc", "dream_mpc_paper")
"""Planners of few model steps: whether compiling a plan pays depends on how many there will be."""


def episode_length(env: TaskEnv) -> int:
    """Agent steps of a whole episode."""
    return env.max_episode_steps or NO_TIME_LIMIT


def obs_dim(env: TaskEnv) -> int:
    """Width of the vector that is observed, 0 if there is none."""
    specs = dict(env.observation_spec.items())
    return specs["observation"].shape[-1] if "observation" in specs else 0


def without_name(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "name"}


def set_speed(config: TrainConfig) -> Speed:
    """Choose device, threads, compilation and precision of a training, and set what torch has of it globally.

    Raises:
        UsageError: a setting that is unknown or cannot be had here.
    """
    asked, width = config.trainer, config.model.mlp_dim
    device = choose_device(asked.accelerator, training=True)
    set_threads(width, asked.threads)
    decisions = config.steps / (config.env.action_repeat or 2)  # left open it counts for two control steps
    plans = decisions / config.env.num_envs if config.planner.get("name") in QUICK else math.inf
    calls = plans, decisions * config.algorithm.utd + config.data.updates
    speed = choose_speed(device, asked.compile, asked.precision, width, config.env.obs, calls)
    speed.apply()
    return speed


def build_env(task: str, seed: int, config: EnvConfig | None = None) -> TaskEnv:
    """`make_env`, with its ValueError turned into a UsageError."""
    try:
        return make_env(task, seed=seed, **asdict(config or EnvConfig()))
    except ValueError as error:
        raise UsageError(str(error)) from error


def build_model(
    env: TaskEnv, size: Mapping[str, Any], algorithm: AlgorithmConfig | None = None
) -> LatentModel:
    """The world model that an algorithm trains, for the spaces of `env`.

    Args:
        size: widths as in `dreammpc.models.SIZES`; a `name` in it is ignored.
        algorithm: its `name`, `discount` (γ per agent step; None takes the heuristic for the episode length)
            and `episodic` (None: if episodes can end in `env`; False takes every end for a time limit).

    Raises:
        UsageError: widths that do not fit together, or an unknown algorithm.
    """
    algorithm = algorithm or AlgorithmConfig()
    discount, episodic = algorithm.discount, algorithm.episodic
    more: dict[str, Any] = {"normalize": True} if env.normalize else {}
    more |= {"channels": env.channels} if env.channels != 3 else {}
    try:
        return algorithm_class(algorithm.name).model_class(
            obs_dim=obs_dim(env),
            action_dim=env.action_spec.shape[-1],
            discount=heuristic_discount(episode_length(env)) if discount is None else discount,
            episodic=env.episodic if episodic is None else episodic,
            obs=env.obs,
            **more,
            **without_name(size),
        )
    except ValueError as error:
        raise UsageError(f"model: {error}") from error


def build_agent(model: LatentModel, planner: Any, algorithm: AlgorithmConfig, compile: Any = False) -> Agent:
    """The agent that collects for an algorithm."""
    record = algorithm_class(algorithm.name).learns_from_plans
    return Agent(model, planner, algorithm.noise_scale, compile, record, algorithm.noise_correlation)


def build_algorithm(
    agent: Agent, feed: Feed, config: AlgorithmConfig, compile: bool | str = False, seed: int = 0
) -> LatentAlgorithm:
    """The LightningModule called `config.name`, with those of its settings that are not the feed's.

    Args:
        seed: of the run, for the weights that resets draw.

    Raises:
        UsageError: an algorithm that the agent's model or planner does not fit.
    """
    cls = algorithm_class(config.name)
    bases: list[type] = [UpdateSettings, *(base for base in cls.__mro__ if issubclass(base, LatentAlgorithm))]
    known = {name for base in bases for name in inspect.signature(base).parameters}
    own = {key: value for key, value in asdict(config).items() if key in known}
    own["progress"] = feed.progress
    if cls.learns_from_plans:
        own["write_back"] = feed.write_back
    algorithm = cls(agent, compile=compile, seed=seed, **own)
    algorithm.complete = feed.complete
    return algorithm


def replay_capacity(env: TaskEnv, env_steps: int, algorithm: AlgorithmConfig, world_size: int = 1) -> int:
    """Transitions that the replay of one of the processes holds: no more than will be collected."""
    total_steps = env_steps // env.action_repeat
    return min(algorithm.capacity, total_steps + env.num_envs * world_size) // world_size


def replay_folder(config: TrainConfig) -> Any:
    """Where this process keeps its replay: a folder, the device that trains, or None, which is memory."""
    rank, where = int(os.environ.get("RANK", 0)), config.replay
    assert config.folder is not None
    return replay_place(where.storage, where.folder, config.folder, rank, config.trainer.accelerator)


def check_replay_fits(env: TaskEnv, agent: Agent, config: TrainConfig, world_size: int = 1) -> str:
    """One line that says what the replay will take; UsageError if there is not as much."""
    capacity = replay_capacity(env, config.steps, config.algorithm, world_size)
    sizes = obs_dim(env), env.action_spec.shape[-1], "pixels" in agent.obs_keys, agent.record, env.channels
    place = replay_folder(config)
    here = 1 if isinstance(place, torch.device) else int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    needed = here * replay_bytes(capacity, env.num_envs, *sizes)
    return check_replay_memory(needed, here * capacity, place)


def build_feed(
    env: TaskEnv,
    agent: Agent,
    env_steps: int,
    seed: int,
    algorithm: AlgorithmConfig,
    world_size: int = 1,
    folder: Any = None,
    collector: Any = None,
    data: Demonstrations | None = None,
    random: bool = True,
) -> Feed:
    """Collector and replay of `agent` in `env`, as the feed of a Trainer.

    Several processes share the work of one: batch and replay are divided among them, and steps count all of
    theirs, so that learning does not depend on how many there are.

    Args:
        env_steps: environment steps after which the feed ends.
        seed: of the replay's draws.
        algorithm: with `capacity`, `horizon`, `batch_size`, `utd` and `seed_steps`, the environment steps of
            random action; `None` for the last is five episodes, at least 1000 agent steps.
        world_size: processes that train together.
        folder: where the replay lies, see `replay_folder`.
        collector: see `build_collector`; by default `agent` acts in `env`.
        data: recorded data to learn from, before and beside what is collected.
        random: act at random in the first steps; else the agent plays them, which knows something already.

    Raises:
        UsageError: a batch that cannot be divided among them, windows longer than an episode, or a capacity
            below one.
    """
    if algorithm.batch_size % world_size:
        raise UsageError(
            f"algorithm.batch_size must be a multiple of the {world_size} processes that share a batch,"
            f" got {algorithm.batch_size}"
        )
    if algorithm.horizon > episode_length(env):
        raise UsageError(
            f"algorithm.horizon must be at most an episode's {episode_length(env)} agent steps,"
            f" got {algorithm.horizon}"
        )
    rows = getattr(collector, "rows", env.num_envs)
    if algorithm.capacity < (needed := rows * world_size * algorithm.horizon):
        raise UsageError(
            f"algorithm.capacity must hold algorithm.horizon={algorithm.horizon} steps of each of"
            f" {rows * world_size} environments, {needed} transitions, got {algorithm.capacity}"
        )
    seed_steps, total_steps = algorithm.seed_steps, env_steps // env.action_repeat
    random_steps = (
        max(1000, 5 * episode_length(env)) if seed_steps is None else seed_steps // env.action_repeat
    )
    if random_steps >= total_steps > 0:
        first = random_steps * env.action_repeat
        after, are = "" if data is None else " after the data", "random" if random else "without updates"
        log.warning(f"nothing is learned{after}: the first {first} steps are {are} (algorithm.seed_steps)")
    return Feed(
        make_collector(env, agent) if collector is None else collector,
        agent,
        Replay(
            replay_capacity(env, env_steps, algorithm, world_size),
            rows,
            algorithm.horizon,
            algorithm.batch_size // world_size,
            seed,
            mutable=EXPERT_KEYS if agent.record else (),
            ragged=getattr(agent.model, "episodic", False),
            obs_keys=agent.obs_keys,
            folder=folder,
        ),
        seed_steps=random_steps,
        total_steps=total_steps,
        utd=algorithm.utd,
        action_repeat=env.action_repeat,
        world_size=world_size,
        data=data,
        random=random,
    )


def describe(
    task: str, model: LatentModel, settings: dict[str, Any], overrides: list[str], **more: Any
) -> dict[str, Any]:
    """The plain facts that a checkpoint tells of itself: what `load_model` and resume need."""
    return {
        "task": task,
        "model": settings["model"],
        "obs_dim": model.obs_dim,
        "action_dim": model.action_dim,
        "discount": model.discount,
        "episodic": model.episodic,
        "obs": model.obs,
        "normalize": model.normalizer is not None,
        "channels": model.channels,
        "config": settings,
        "overrides": overrides,
        **more,
    }


def check_spaces(path: str | Path | None, facts: dict[str, Any], env: TaskEnv) -> None:
    """Raise UsageError if the checkpoint at `path` was trained for other spaces than those of `env`."""
    cameras = facts.get("channels", 3), env.channels
    if facts.get("obs", "state") != "state" and cameras[0] != cameras[1]:
        raise UsageError(
            f"checkpoint {path} was trained on frames of {cameras[0]} channels, but those of task {env.task}"
            f" have {cameras[1]} (three for each camera)"
        )
    has, needs = (obs_dim(env), env.action_spec.shape[-1]), (facts["obs_dim"], facts["action_dim"])
    if has != needs:
        raise UsageError(
            f"checkpoint {path} was trained on task {facts['task']} with {needs[0]} observations and"
            f" {needs[1]} actions, but task {env.task} has {has[0]} and {has[1]}"
        )

"""A small stand-in for HumanoidBench with its habits: what its adapter has to provide and mend."""

import importlib

import jax.numpy  # noqa: F401 (without JAX the adapter provides it)
from gymnasium.envs import register

sizes = importlib.import_module("humanoid_bench.dmc_deps.dmc_sizes")

ROBOTS = ("h1", "h1hand")
TASKS = ("run", "balance_hard", "unbuilt")

for robot in ROBOTS:
    for task in TASKS:
        register(
            id=f"{robot}-{task}-v0",
            entry_point="humanoid_bench.env:HumanoidEnv",
            max_episode_steps=12,
            kwargs={"robot": robot, "control": "pos", "task": task},
        )

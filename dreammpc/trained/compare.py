"""Trained agents × planners → tidy rows: the evaluation protocol, as `lightning run evaluate` plays it.

Every planner plays the same starts, in the same mode, all episodes side by side; the mode is in each row.
"""

import dataclasses
import glob
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from dreammpc.agent import Agent
from dreammpc.configuration import assembly
from dreammpc.configuration.planners import check_graphable, planners_for
from dreammpc.configuration.schemas import EnvConfig
from dreammpc.data.recorder import Recorder
from dreammpc.envs.families import check_task, first_text
from dreammpc.evaluation import Episodes, Evaluator
from dreammpc.evaluation.rows import Row, make_rows
from dreammpc.interfaces import UsageError
from dreammpc.plugins.settings import Seed, fitted
from dreammpc.runtime.devices import choose_device, matmul_precision
from dreammpc.runtime.threads import set_threads
from dreammpc.support.names import printable
from dreammpc.tracking import provenance_tags
from dreammpc.trained import export, loading
from dreammpc.trained.library import full_name, planner_meant

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Played:
    """One planner's episodes with one agent."""

    checkpoint: str
    task: str
    planner: str
    agent: Agent
    episodes: Episodes
    rows: list[Row]
    evaluator: Evaluator
    """Which can film the agent on the same starts."""
    last: bool
    """Of this agent's."""


def find_checkpoints(patterns: Sequence[str]) -> list[str]:
    """The files that `patterns` name, in their order; `*`, `?` and `[]` match as in a shell, unless a file is
    called just so.

    Raises:
        UsageError: a pattern that matches nothing, or a file that is named twice.
    """
    found: list[str] = []
    for pattern in patterns:
        plain = os.path.isfile(pattern) or not glob.has_magic(pattern)
        matches = [pattern] if plain else sorted(glob.glob(pattern))
        if not matches:
            raise UsageError(f"checkpoint {pattern}: no file matches")
        found += map(full_name, matches)
    twice = next((path for path in found if found.count(path) > 1), None)
    if twice:
        raise UsageError(f"checkpoint {twice} is named twice")
    return found


def compare(
    checkpoints: str | Sequence[str],
    planners: str | Sequence[str],
    settings: Mapping[str, Any] | None = None,
    *,
    seeds: Sequence[int] = tuple(range(1000, 1010)),
    task: str | Sequence[str] | None = None,
    noise_scale: float = 0.0,
    compile: bool | str = False,
    device: str | torch.device = "auto",
    algorithm: str | None = None,
    record: Recorder | None = None,
    ensemble: bool = False,
) -> Iterator[Played]:
    """Play one episode from each of `seeds` with every planner on every checkpoint.

    Args:
        checkpoints: files or agents, one or several; of any tasks and algorithms.
        planners: one name or several; `best` is what each agent's card says (see `library.planner_meant`).
        settings: each planner takes those that it has.
        seeds: of the starts, the same for all.
        task: a single one is played by all, also in place of that of training, if its spaces are the same; a
            line says so. Several only confirm: each checkpoint plays its own, and may have those imported.
        noise_scale: of exploration noise; 0 acts greedily.
        compile: how plans run, see `dreammpc.runtime.compiling.MODES`; True is `default`.
        device: that plans (see `dreammpc.runtime.devices.choose_device`).
        algorithm: the dotted path of one that a checkpoint may name (see `loading.load_agent`).
        record: keeps all episodes; whoever gave it saves them.
        ensemble: all checkpoints together are one agent (see `loading.load_ensemble`).

    Yields:
        What was played, checkpoint by checkpoint, once all checkpoints and planners have been looked at.

    Raises:
        UsageError: a checkpoint that cannot be used, an unknown planner or setting, a planner that cannot be
            a graph if `compile` asks for graphs, no or equal seeds, a device that is not there, or
            an `algorithm`, or one of several tasks, that no checkpoint names.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise UsageError(f"seeds: expected different numbers, at least one, got {list(seeds)}")
    chosen = choose_device(device)
    if chosen.type == "cuda":
        torch.set_float32_matmul_precision(matmul_precision(chosen))  # as the training's own evaluations
    checkpoints = [full_name(path) for path in listed(checkpoints)]
    planners = listed(planners)
    tasks = list(dict.fromkeys(listed(task or ())))
    fitted("seeds", list(seeds), list[Seed])
    mode = "greedy" if noise_scale == 0 else f"noise_scale={noise_scale:g}"
    named_now = [algorithm] if algorithm else []
    load: Any = loading.load_ensemble if ensemble else loading.load_model
    agents = (
        {" + ".join(checkpoints): checkpoints}
        if ensemble
        else dict(zip(checkpoints, checkpoints, strict=True))
    )
    names = {
        path: list(dict.fromkeys(planner_meant(name, files) for name in planners))
        for path, files in agents.items()
    }
    among = [name for own in names.values() for name in own]

    def made_for(path: str, action_dim: int) -> dict[str, Any]:
        return planners_for(names[path], settings or {}, action_dim, among=among)

    trained_by: list[str] = []
    trained_on: list[Any] = []
    for path, files in agents.items():  # a mistake must show before hours of episodes, not after
        model, facts = load(files, named=named_now)
        trained_by += facts["config"]["algorithm"]["name"].split("+")
        trained_on.append(facts["task"])
        name = task_of(path, facts, tasks, len(agents) > 1)
        if name != facts["task"]:
            log.warning(
                "%s: trained on task %s, played on task %s", path, printable(str(facts["task"])), name
            )
        for planner in made_for(path, model.action_dim).values():
            check_graphable(planner, model, compile, "compile")
        made = EnvConfig(
            action_repeat=loading.action_repeat_of(facts), obs=model.obs, **loading.model_options(facts)
        )
        with closing(assembly.build_env(name, 0, made)) as env:
            assembly.check_spaces(path, facts, env)
            if record is not None:
                record.expect(env)
    if algorithm not in (None, *trained_by):
        raise UsageError(
            f"algorithm={algorithm} trained none of these; they name {', '.join(sorted(set(trained_by)))}"
        )
    if len(tasks) > 1 and (unused := [name for name in tasks if name not in trained_on]):
        raise UsageError(f"task={','.join(tasks)}: no checkpoint was trained on {', '.join(unused)}")
    for path, files in agents.items():
        model, facts = load(files, chosen, named_now)
        set_threads(loading.model_width(facts))
        origin = {"mode": mode, **where_played()}
        name = task_of(path, facts, tasks)
        arguments: dict[str, Any] = {
            "seeds": seeds,
            "obs": model.obs,
            "options": loading.model_options(facts),
        }
        evaluator = Evaluator(name, len(seeds), seeds[0], loading.action_repeat_of(facts), **arguments)
        with closing(evaluator):
            for planner_name, planner in made_for(path, model.action_dim).items():
                if ensemble and "value_reduction" not in (settings or {}):
                    planner = loading.averaged(planner)
                agent = Agent(model, planner, noise_scale, compile)
                episodes = evaluator.play(agent, record=record)
                assert episodes is not None  # nothing interrupts it
                own = dataclasses.asdict(planner)
                rows = make_rows(
                    episodes,
                    evaluator.seeds,
                    **identity(path, facts, name),
                    **origin,
                    action_repeat=evaluator.env.action_repeat,
                    variant=evaluator.env.variant or None,
                    planner=planner_name,
                    settings={key: value for key, value in own.items() if key != "action_dim"},
                )
                last = planner_name == names[path][-1]
                yield Played(path, name, planner_name, agent, episodes, rows, evaluator, last)


def listed(names: str | Sequence[str]) -> Sequence[str]:
    """A single name as a list of one."""
    return [names] if isinstance(names, str) else names


def task_of(path: str, facts: Mapping[str, Any], tasks: Sequence[str], several: bool = False) -> str:
    """What a checkpoint is played on: the only one of `tasks`, else its own.

    Raises:
        UsageError: its own would do what nobody chose, and `tasks` does not have it (see `check_task`); the
            line says how `several` checkpoints may name theirs. Or another, and texts for its own.
    """
    kwargs = loading.model_options(facts).get("kwargs")
    if len(tasks) == 1:
        if tasks[0] != facts["task"] and (text := first_text(kwargs)) is not None:
            raise UsageError(
                f"checkpoint {path} makes its environment with the text {text!r}, which was meant for task"
                f" {facts['task']} and not for {tasks[0]}"
            )
        return tasks[0]
    try:
        check_task(facts["task"], f"checkpoint {path}", tasks, kwargs)
    except UsageError as reason:
        hint = " (one task= is played by all checkpoints; task=A,B lets each play its own)" if several else ""
        raise UsageError(f"{reason}{hint}") from reason
    return facts["task"]


def identity(path: str | Path, facts: Mapping[str, Any], task: str) -> dict[str, Any]:
    """The columns that say which agent it is, from a checkpoint's description."""
    config = facts["config"]
    return {
        "task": task,
        "checkpoint": str(path),
        "train_seed": config.get("seed"),
        "algorithm": config["algorithm"]["name"],
        "model": facts["model"].get("name"),
        "env_steps": facts.get("env_steps"),
    }


def where_played() -> dict[str, Any]:
    """The columns `versions` and `machine`."""
    tags = provenance_tags()
    versions = export.versions(tags)
    if "git.revision" in tags:
        versions["git"] = tags["git.revision"] + ("+changes" if tags["git.dirty"] == "true" else "")
    parts = [tags["cpu"], f"{torch.get_num_threads()} threads", *([tags["gpu"]] if "gpu" in tags else [])]
    return {"versions": versions, "machine": ", ".join(parts)}

"""Tidy rows → methods × tasks × training runs, and what has to be said about them.

A method is a planner with its settings on the agents of one algorithm and model size; a run is one trained
agent. What cannot be compared is refused; what weakens a comparison is said in `notes`.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field
from typing import Any

import numpy as np

from dreammpc.evaluation.protocol import check_protocol, in_order
from dreammpc.evaluation.rows import DIAGNOSTICS, Row, plain_value, same_file
from dreammpc.interfaces import UsageError
from dreammpc.planning.factory import PLANNERS, planner_settings
from dreammpc.runtime.devices import where


@dataclass
class Run:
    """One method's episodes with one trained agent."""

    seed: int | None
    """Of training."""
    checkpoint: str
    env_steps: int | None
    returns: np.ndarray
    """[episodes]"""
    score: float
    """Normalized, the mean over episodes; NaN where the task's environment gives it no scale."""
    success: float | None
    """Share of the episodes, at the last step; None where the environment does not report it."""
    any_success: float | None
    """The same at any step."""
    ms_per_action: float
    diagnostics: dict[str, float]
    measured_on: str
    """What the milliseconds are of; empty where the rows do not say it."""


@dataclass
class Results:
    """What was measured: every method's runs on every task."""

    methods: list[str]
    """Labels, in order of appearance."""
    tasks: list[str]
    runs: dict[tuple[str, str], list[Run]]
    """By method and task, in order of the training seeds; without those that were not played."""
    agents: dict[str, str]
    """By method, what it plays: algorithm and model size."""
    mode: str
    episodes: tuple[int, int]
    """Of each agent and planner: the fewest and the most."""
    notes: list[str] = field(default_factory=list)
    variants: dict[str, str] = field(default_factory=dict)
    """Of the tasks that have one: the version of their environment."""

    def title(self, task: str) -> str:
        """A task's name with its variant, `mw-reach (v3)`."""
        return titled(task, self.variants.get(task))

    def successes(self, method: str, task: str) -> np.ndarray | None:
        """Each run's success at the last step and at any, [2, runs]; None where one does not report them."""
        found = [(run.success, run.any_success) for run in self.runs[method, task]]
        return None if any(None in pair for pair in found) else np.array(found, float).T

    def returns(self, method: str, task: str) -> np.ndarray:
        """Mean return of each run, [runs]."""
        return np.array([run.returns.mean() for run in self.runs[method, task]])

    def of_method(self, method: str) -> list[Run]:
        """Its runs on all tasks."""
        return [run for (name, _), runs in self.runs.items() if name == method for run in runs]

    def ms_per_action(self, method: str) -> float:
        """Mean over all runs."""
        return float(np.mean([run.ms_per_action for run in self.of_method(method)]))

    def measured_on(self) -> str:
        """What the milliseconds are of, such as ` (cpu, 2 threads)`; nothing where not all rows say it."""
        found = {run.measured_on for runs in self.runs.values() for run in runs}
        return "" if "" in found else f" ({' and '.join(sorted(found))})"

    def model_steps(self, method: str) -> float:
        """Model evaluations per action, mean over all runs; NaN where not reported."""
        return float(np.mean([run.diagnostics.get("evaluations", np.nan) for run in self.of_method(method)]))


def collect(rows: Sequence[Row]) -> Results:
    """Sort rows into `Results`.

    Raises:
        UsageError: several modes; a task played with several action repeats, or from other starts by one
            method than by another; two checkpoints of one training seed.
    """
    check_protocol(rows)
    labels = _labels(rows)
    groups: dict[tuple[str, str], dict[Any, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row, label in zip(rows, labels, strict=True):
        seed = row["train_seed"]
        groups[label, row["task"]][same_file(row["checkpoint"]) if seed is None else seed].append(row)
    tasks = in_order(rows, "task")
    unscaled = {row["task"] for row in rows if row["score"] is None}
    runs = {}
    for key, group in groups.items():
        for seed, found in group.items():
            paths = in_order(found, "checkpoint")
            if len(set(map(same_file, paths))) > 1:
                raise UsageError(
                    f"{key[1]}, training seed {seed}, {key[0]}: scores of two checkpoints, {paths[0]} and"
                    f" {paths[1]}; report one of them"
                )
        in_turn = sorted(group.items(), key=lambda item: (isinstance(item[0], str), item[0]))
        runs[key] = [_run(found, key[1] not in unscaled) for _, found in in_turn]
    agents = {label: _agent(row) for row, label in zip(rows, labels, strict=True)}
    counts = [len(run.returns) for found in runs.values() for run in found]
    episodes = min(counts), max(counts)
    results = Results(list(dict.fromkeys(labels)), tasks, runs, agents, rows[0]["mode"], episodes)
    results.variants = {row["task"]: row["variant"] for row in rows if row["variant"]}
    results.notes += [
        f"{task}: its environment names no full return and does not report success of every episode: the"
        " aggregates leave it out."
        for task in tasks
        if task in unscaled
    ]
    results.notes += _differences(rows) + _lacks(results)
    if not common(results)[0]:
        results.notes.append(
            "No task of a known scale was played by every planner, so there are no aggregates."
        )
    return results


def common(results: Results) -> tuple[list[str], dict[str, list[np.ndarray]]]:
    """The tasks that every method has played, and each method's normalized scores on them, by task.

    Of a task only those runs count whose training seed every method of the same agents has. Tasks are sorted,
    so that what is drawn of them at random does not depend on the order of the rows.
    """
    tasks: list[str] = []
    scores: dict[str, list[np.ndarray]] = {method: [] for method in results.methods}
    for task in sorted(results.tasks):
        found = {method: results.runs.get((method, task), []) for method in results.methods}
        chosen: dict[str, np.ndarray] = {}
        for method, runs in found.items():
            peers = [other for other in results.methods if results.agents[other] == results.agents[method]]
            shared = set.intersection(*({_name(run) for run in found[peer]} for peer in peers))
            chosen[method] = np.array([run.score for run in runs if _name(run) in shared])
        if all(len(values) and np.isfinite(values).all() for values in chosen.values()):
            tasks.append(task)
            for method, values in chosen.items():
                scores[method].append(values)
    return tasks, scores


def _name(run: Run) -> Any:
    return same_file(run.checkpoint) if run.seed is None else run.seed


def _run(rows: list[Row], scaled: bool) -> Run:
    returns = np.array([row["return"] for row in rows])
    names = {name for row in rows for name in row if name.startswith(DIAGNOSTICS)}
    diagnostics = {
        name.removeprefix(DIAGNOSTICS): float(np.mean([row[name] for row in rows if name in row]))
        for name in sorted(names)
    }
    first = rows[0]
    return Run(
        first["train_seed"],
        first["checkpoint"],
        first["env_steps"],
        returns,
        float(np.mean([row["score"] for row in rows])) if scaled else np.nan,
        _mean(rows, "success"),
        _mean(rows, "any_success"),
        float(np.mean([row["ms_per_action"] for row in rows])),
        diagnostics,
        " and ".join(sorted({where(row["device"], row["threads"]) for row in rows if row.get("device")})),
    )


def _mean(rows: list[Row], name: str) -> float | None:
    values = [row[name] for row in rows]
    return None if None in values else float(np.mean(values))


def titled(task: str, variant: str | None) -> str:
    """A task's name, with its variant if it has one."""
    return f"{task} ({variant})" if variant else task


def default_settings(planner: str) -> dict[str, Any]:
    """A planner's settings as rows have them; none of one that is not registered here."""
    known = planner_settings(planner) if planner in PLANNERS else []
    usual = {x.name: x.default for x in known if x.default is not MISSING}
    written: dict[str, Any] = plain_value(usual, names=True)
    return written


def whole_settings(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The settings of each row, and the defaults of those that its planner did not have when it was played.

    A new setting's default does what was done before.
    """
    usual = {name: default_settings(name) for name in in_order(rows, "planner")}
    return [{**usual[row["planner"]], **row["settings"]} for row in rows]


def _labels(rows: Sequence[Row]) -> list[str]:
    """The method of each row: its planner, and whatever else tells it from other rows' methods."""
    settings: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    whole = whole_settings(rows)
    for row, own in zip(rows, whole, strict=True):
        for key, value in own.items():
            settings[row["planner"]][key].add(str(value))
    agents = {_agent(row) for row in rows}
    labels = []
    for row, own in zip(rows, whole, strict=True):
        differ = [key for key, values in settings[row["planner"]].items() if len(values) > 1]
        label = " ".join([row["planner"], *(f"{key}={own.get(key)}" for key in differ)])
        labels.append(label if len(agents) == 1 else f"{label} on {_agent(row)}")
    return labels


def _agent(row: Row) -> str:
    return " ".join(filter(None, [row["algorithm"], row["model"]]))


def _differences(rows: Sequence[Row]) -> list[str]:
    """What differs between rows and weakens their comparison."""
    notes = []
    if any(len(in_order(rows, name)) > 1 for name in ("machine", "device", "threads", "batch")):
        notes.append(
            "Times come from several machines, devices or batch sizes: compare returns, not milliseconds."
        )
    versions = {
        json.dumps({k: v for k, v in row["versions"].items() if k != "git"}, sort_keys=True) for row in rows
    }
    if len(versions) > 1:
        notes.append("Scores come from several versions of the software.")
    for task in in_order(rows, "task"):
        steps = sorted(
            {row["env_steps"] for row in rows if row["task"] == task and row["env_steps"] is not None}
        )
        if len(steps) > 1:
            notes.append(
                f"{task}: agents of {steps[0]:,} to {steps[-1]:,} environment steps of training are mixed."
            )
    return notes


def _lacks(results: Results) -> list[str]:
    """Who has not played what, and where there is one run only."""
    notes = []
    for method in results.methods:
        missing = [task for task in results.tasks if (method, task) not in results.runs]
        if missing:
            notes.append(
                f"{method} was not played on {', '.join(missing)}: aggregates of all planners leave"
                f" {'that task' if len(missing) == 1 else 'those tasks'} out."
            )
    for task in results.tasks:
        seeds = {
            method: {_name(run) for run in results.runs[method, task]}
            for method in results.methods
            if (method, task) in results.runs
        }
        fewer = [
            method
            for method, own in seeds.items()
            if any(seeds[m] - own for m in seeds if results.agents[m] == results.agents[method])
        ]
        if fewer:
            notes.append(
                f"{task}: {', '.join(fewer)} not played with every training seed; aggregates use the shared."
            )
        if min(map(len, seeds.values())) == 1:
            notes.append(f"{task}: one training seed only, so no interval can be given.")
    return notes

"""What a report is made from: run folders, files of scores, videos, and published curves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dreammpc.evaluation.film import ENDINGS as VIDEOS
from dreammpc.evaluation.results import titled
from dreammpc.evaluation.rows import ENDINGS, Row, read_rows
from dreammpc.interfaces import UsageError
from dreammpc.support.atomic import from_json
from dreammpc.support.nested import chosen_name
from dreammpc.support.run_folder import LOG, PARAMS, find_runs

METRICS = {"return": ("final", "reward"), "success": ("final_success", "success")}
"""What evaluations are drawn by; what the end of a training calls it, and what published curves do."""


@dataclass
class Curve:
    """The evaluations of one training."""

    folder: str
    task: str
    seed: int | None
    kind: str
    """Algorithm, model size, whether from pixels, and the planner that was evaluated."""
    env_steps: np.ndarray
    returns: np.ndarray
    """Mean over the episodes of each evaluation; of success where that is the `metric`."""
    hours: float
    pixels: bool
    settings: dict[str, str]
    """Those of learning, by dotted name."""
    metric: str = "return"
    """Or "success", at the last step."""
    variant: str | None = None
    """Of the task's environment, where there are several."""

    @property
    def title(self) -> str:
        """Of the panel that it is drawn in."""
        return titled(self.task, self.variant) + ("" if self.metric == "return" else f", {self.metric}")

    @property
    def digits(self) -> int:
        """After the decimal point."""
        return 0 if self.metric == "return" else 2


@dataclass
class Reference:
    """A published curve of one task."""

    name: str
    """Its key in the file, which names method and source."""
    env_steps: np.ndarray
    mean: np.ndarray

    @property
    def pixels(self) -> bool:
        """Whether it is of agents that learned from images: its name says so."""
        return "pixels" in self.name

    def at(self, env_steps: float) -> float:
        """The mean after so many steps, on a straight line between two points; NaN beyond its ends."""
        return float(np.interp(env_steps, self.env_steps, self.mean, left=math.nan, right=math.nan))


@dataclass
class Inputs:
    """All of a report's."""

    curves: list[Curve] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    videos: list[Path] = field(default_factory=list)
    references: dict[str, list[Reference]] = field(default_factory=dict)
    """By the title of the panel, a task's or a task's success."""
    reference: str | None = None
    """The file of published curves."""
    unevaluated: list[Path] = field(default_factory=list)
    """Folders of runs that have no curve, as none of their evaluations is over."""


def read(paths: str | Path | Sequence[str | Path], reference: str | Path | None = None) -> Inputs:
    """Sort and read all files.

    Args:
        paths: run folders (with their videos) and folders of such, files of scores (.csv, .json) and videos
            (.mp4, .gif). A run that is named twice counts once.
        reference: published curves, `{method: {task: {metric, env_steps, mean, std}}}`, or in place of `std`
            the ends `ci95_low` and `ci95_high`.

    Raises:
        UsageError: a path that is missing, damaged, or none of these; an evaluation that is not a number.
    """
    if not paths:
        raise UsageError("nothing to report: name run folders or files of scores")
    inputs, scores = Inputs(), []
    runs: dict[Path, Path] = {}
    for path in map(Path, [paths] if isinstance(paths, (str, Path)) else paths):
        if path.is_dir():
            runs |= {folder.resolve(): folder for folder in find_runs(path) if folder.resolve() not in runs}
        elif not path.exists():
            raise UsageError(f"{path} does not exist")
        elif path.suffix in VIDEOS:
            inputs.videos.append(path)
        elif path.suffix in ENDINGS:
            scores.append(path)
        else:
            raise UsageError(f"{path}: expected a run folder, scores (.csv, .json) or a video (.mp4, .gif)")
    for folder in runs.values():
        inputs.curves += (own := read_run(folder))
        inputs.unevaluated += [] if own else [folder]
        inputs.videos += sorted(file for file in folder.iterdir() if file.suffix in VIDEOS)
    inputs.rows = read_rows(scores)
    if reference is not None:
        inputs.reference = str(reference)
        inputs.references = read_references(Path(reference), inputs.curves)
    return inputs


def read_run(folder: Path) -> list[Curve]:
    """The curves of a run folder, one for each planner that was evaluated on the way."""
    if not (folder / PARAMS).is_file():
        raise UsageError(f"{folder} is no run folder: it has no {PARAMS}")
    try:
        params = from_json((folder / PARAMS).read_text())
        _check(params)
        text = (folder / LOG).read_text()
        whole = text[: text.rfind("\n") + 1]  # the last line may be in writing
        lines = [from_json(line) for line in whole.splitlines()]
        planners = params.get("eval_planner") or [chosen_name(params["planner"])]
        pixels = is_pixels(params)
        agent = f"{params['algorithm']['name']} {params['model'].get('name', '')}"
        agent += " from pixels" if pixels else ""
        curves = [
            Curve(
                str(folder),
                params["task"],
                params.get("seed"),
                f"{agent}, {name}",
                *_evaluations(lines, name, i == 0, metric),
                hours=lines[-1]["wall_s"] / 3600 if lines else 0.0,
                pixels=pixels,
                settings=learning_settings(params),
                metric=metric,
                variant=params.get("variant"),
            )
            for i, name in enumerate(planners)
            for metric in METRICS
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        why = f"{type(error).__name__}: {str(error)[:100]}"
        raise UsageError(f"{folder} is damaged or not a run of ours ({why})") from error
    for curve in curves:
        wrong = curve.env_steps[~np.isfinite(curve.returns)]
        if len(wrong):
            raise UsageError(
                f"{folder}: the evaluation after {wrong[0]:.0f} environment steps is not a number"
            )
    return [curve for curve in curves if len(curve.env_steps)]


def _check(params: dict[str, Any]) -> None:
    """Raise TypeError if what a report sorts and joins is not what it should be."""
    planners = params.get("eval_planner") or []
    texts = [params["task"], params["algorithm"]["name"], *planners]
    seed = params.get("seed")
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"{PARAMS}: task, algorithm and planners must be names")
    if not (seed is None or (isinstance(seed, int) and not isinstance(seed, bool))):
        raise TypeError(f"{PARAMS}: seed must be a whole number, got {seed!r}")


def learning_settings(params: dict[str, Any]) -> dict[str, str]:
    """What decides how a run learns: the settings of algorithm, model, planner and environments."""
    groups = ("algorithm", "model", "planner", "env")
    return {
        f"{group}.{name}": str(value) for group in groups for name, value in params.get(group, {}).items()
    }


def is_pixels(params: dict[str, Any]) -> bool:
    """Whether a run learned from images."""
    return params.get("env", {}).get("obs", "state") != "state"


def _evaluations(lines: list[dict], planner: str, first: bool, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values; the comparison that ends a training is its last evaluation."""
    name = f"eval/{metric}" if first else f"eval/{planner}/{metric}"
    final = f"{METRICS[metric][0]}/{planner}"
    found: dict[int, Any] = {}
    for line in lines:
        for key in (name, final):
            if key in line:
                found[line["env_steps"]] = math.nan if line[key] is None else line[key]
    steps = sorted(found)
    return np.array(steps, float), np.array([found[step] for step in steps], float)


def read_references(path: Path, runs: Sequence[Curve]) -> dict[str, list[Reference]]:
    """Published curves of each task of `runs`, from pixels or not as they are; none called `name@source`."""
    if not path.is_file():
        raise UsageError(f"reference {path} {'is a folder' if path.is_dir() else 'does not exist'}")
    found: dict[str, list[Reference]] = {run.title: [] for run in runs}
    wanted = {(run.title, run.task, run.pixels, METRICS[run.metric][1]) for run in runs}
    try:
        for method, named in from_json(path.read_text()).items():
            curves = {name.replace("_", "-"): curve for name, curve in named.items()}
            for title, task, pixels, metric in sorted(wanted):
                curve = curves.get(task.replace("_", "-"))
                if "@" in method or curve is None or ("pixels" in method) != pixels:
                    continue
                if curve["metric"] == metric:
                    found[title].append(_reference(method, curve, f"reference {path}: {method}, {task}"))
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        why = f"{type(error).__name__}: {str(error)[:100]}"
        raise UsageError(f"reference {path} is damaged or has another format ({why})") from error
    return found


def _reference(method: str, curve: dict[str, Any], where: str) -> Reference:
    values: list[np.ndarray] = []
    for name in ("env_steps", "mean", *(("std",) if "std" in curve else ("ci95_low", "ci95_high"))):
        if name not in curve:
            raise UsageError(f"{where}: {name} is missing (env_steps, mean, std or ci95_low and ci95_high)")
        values.append(np.array(curve[name], float))
        if values[-1].shape != (len(curve["env_steps"]),) or not np.isfinite(values[-1]).all():
            raise UsageError(f"{where}: {name} must be finite numbers, one for each of env_steps")
    steps, mean, *_ = values
    if not (np.diff(steps) > 0).all():
        raise UsageError(f"{where}: env_steps must increase")
    return Reference(method, steps, mean)

"""Results → estimates with intervals, and their tables as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dreammpc.evaluation import aggregate
from dreammpc.evaluation.aggregate import Interval, Scores
from dreammpc.evaluation.results import Results, common
from dreammpc.support.markdown import table

BASES = ("mppi", "policy")
"""Planners that the others are held against, where they were played."""
THRESHOLDS = np.linspace(0, 1, 101)


class Estimate(NamedTuple):
    """A number, and its 95 % interval; `None` where there is one training seed only."""

    value: float
    interval: Interval | None

    def text(self, digits: int, plus: bool = False) -> str:
        """`812 [790, 830]`, with a sign if `plus`; what is not finite is left out, as of a ratio to 0."""
        if not np.isfinite(self.value):
            return ""
        sign = "+" if plus else ""
        number = f"{self.value:{sign}.{digits}f}"
        if self.interval is None or not np.isfinite(self.interval).all():
            return number
        return f"{number} [{self.interval.low:{sign}.{digits}f}, {self.interval.high:{sign}.{digits}f}]"


class Comparison(NamedTuple):
    """One method against another, over all common tasks and runs."""

    method: str
    base: str
    difference: Estimate
    """Of IQM."""
    ratio: Estimate
    """Of IQM."""
    probability: Estimate
    """Of improvement."""


@dataclass
class Summary:
    """What the tables and figures show."""

    tasks: list[str]
    """Those in the aggregates."""
    aggregates: dict[str, dict[str, Estimate]]
    """By method and statistic; empty if no task is common to all methods."""
    comparisons: list[Comparison]
    profiles: dict[str, tuple[np.ndarray, Interval | None]]
    """By method, at `THRESHOLDS`."""
    counts: list[int]
    """Runs of each task, over all methods."""


def summarize(results: Results) -> Summary:
    """Aggregates, comparisons and profiles over the tasks and runs that all methods share."""
    tasks, scores = common(results)
    if not tasks:
        return Summary([], {}, [], {}, [])
    aggregates = {
        method: {name: _estimate(found, statistic) for name, statistic in aggregate.STATISTICS.items()}
        for method, found in scores.items()
    }
    profiles = {}
    for method, found in scores.items():
        band = aggregate.interval(found, _profile)
        profiles[method] = (_profile(found), band)
    comparisons = [
        _comparison(results, scores, method, base)
        for base in _bases(results)
        for method in results.methods
        if _is_told(results, method, base)
    ]
    counts = sorted({len(runs) for found in scores.values() for runs in found})
    return Summary(tasks, aggregates, comparisons, profiles, counts)


def task_estimate(results: Results, method: str, task: str) -> Estimate | None:
    """Mean return over runs; `None` if it was not played."""
    if (method, task) not in results.runs:
        return None
    return _estimate([results.returns(method, task)], aggregate.mean)


def _estimate(scores: Scores, statistic: aggregate.Statistic) -> Estimate:
    return Estimate(float(statistic(scores)), aggregate.interval(scores, statistic))


def _profile(scores: Scores) -> np.ndarray:
    return aggregate.performance_profile(scores, THRESHOLDS)


def _is_told(results: Results, method: str, base: str) -> bool:
    """Planners on the same agents, and one planner on several kinds of agents; each pair once."""
    planner, other = method.split()[0], base.split()[0]
    if results.agents[method] != results.agents[base]:
        return planner == other and results.methods.index(base) < results.methods.index(method)
    return planner != other and (other, planner) != ("policy", "mppi")


def _bases(results: Results) -> list[str]:
    return [method for base in BASES for method in results.methods if method.split()[0] == base]


def _comparison(results: Results, scores: dict[str, list[np.ndarray]], method: str, base: str) -> Comparison:
    x, y = scores[method], scores[base]
    paired = results.agents[method] == results.agents[base]

    def estimate(statistic, paired: bool) -> Estimate:
        return Estimate(float(statistic(x, y)), aggregate.paired_interval(x, y, statistic, paired=paired))

    with np.errstate(divide="ignore", invalid="ignore"):
        return Comparison(
            method,
            base,
            estimate(lambda a, b: aggregate.iqm(a) - aggregate.iqm(b), paired),
            estimate(lambda a, b: aggregate.iqm(a) / aggregate.iqm(b), paired),
            # Of runs drawn apart: drawn together, each would too often meet the one of its own agent.
            estimate(aggregate.probability_of_improvement, False),
        )


def heading(results: Results) -> str:
    """What was played, in one sentence."""
    seeds = sorted({len(runs) for runs in results.runs.values()})
    trained = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    fewest, most = results.episodes
    played = many(most, "episode") if fewest == most else f"{fewest} to {many(most, 'episode')}"
    return (
        f"{many(len(results.tasks), 'task')}, {trained} training seed{'' if seeds == [1] else 's'} each,"
        f" {played} per agent and planner, {results.mode}."
    )


def markdown(results: Results, summary: Summary) -> str:
    """All tables: returns by task, aggregates, comparisons, and the notes."""
    parts = [markdown_text(heading(results)), _markdown_table(*task_table(results))]
    if successes := success_table(results):
        parts += ["Success at the last step (at any step):", _markdown_table(*successes)]
    if summary.aggregates:
        over = markdown_text(f"Normalized scores over {', '.join(map(results.title, summary.tasks))}:")
        parts += [over, _markdown_table(*aggregate_table(results, summary))]
    if summary.comparisons:
        parts += ["One against another, of IQM:", _markdown_table(*comparison_table(summary))]
    if any(len(runs) > 1 for runs in results.runs.values()):
        parts.append("In brackets: 95 % stratified-bootstrap intervals over training seeds.")
    if results.notes:
        parts.append("\n".join(f"- {markdown_text(note)}" for note in results.notes))
    return "\n\n".join(parts)


Table = tuple[list[str], list[list[str]]]
"""Heads and rows."""


def task_table(results: Results) -> Table:
    """Mean return, a row for each task, a column for each method."""
    rows = []
    for task in results.tasks:
        found = [task_estimate(results, method, task) for method in results.methods]
        rows.append([results.title(task), *("" if each is None else each.text(0) for each in found)])
    times = [f"{results.ms_per_action(method):.2f}" for method in results.methods]
    steps = [_count(results.model_steps(method)) for method in results.methods]
    rows += [[f"ms per action{results.measured_on()}", *times], ["model steps per action", *steps]]
    return ["return", *results.methods], rows


def success_table(results: Results) -> Table | None:
    """Shares of successful episodes, mean over runs, of the tasks that report them; None without such."""
    rows = []
    for task in results.tasks:
        found = [
            results.successes(method, task) if (method, task) in results.runs else None
            for method in results.methods
        ]
        if any(each is not None for each in found):
            cells = ["" if each is None else _successes_text(each) for each in found]
            rows.append([results.title(task), *cells])
    return (["success", *results.methods], rows) if rows else None


def _successes_text(rates: np.ndarray) -> str:
    last, any_step = (_estimate([each], aggregate.mean) for each in rates)
    return f"{last.text(2)} ({any_step.text(2)})"


def aggregate_table(results: Results, summary: Summary) -> Table:
    """A row for each method."""
    rows = [
        [
            method,
            *(found[name].text(3) for name in aggregate.STATISTICS),
            f"{results.ms_per_action(method):.2f}",
        ]
        for method, found in summary.aggregates.items()
    ]
    return ["planner", *aggregate.STATISTICS, f"ms per action{results.measured_on()}"], rows


def comparison_table(summary: Summary) -> Table:
    """A row for each comparison."""
    rows = [
        [f"{c.method} against {c.base}", c.difference.text(3, True), c.ratio.text(2), c.probability.text(2)]
        for c in summary.comparisons
    ]
    return ["", "difference", "ratio", "probability of improvement"], rows


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    shown, *lines = [[markdown_text(cell) for cell in line] for line in (head, *rows)]
    return table(shown, lines)


def markdown_text(text: str) -> str:
    """Text for Markdown, so that nothing in it is a tag, a picture, a link, code, or the end of a cell."""
    for sign, shown in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "\\`")):
        text = text.replace(sign, shown)
    return " ".join(text.replace("](", "]\\(").replace("![", "!\\[").replace("]:", "]\\:").split())


def many(count: int, what: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def _count(number: float) -> str:
    return "" if np.isnan(number) else f"{number:.0f}"

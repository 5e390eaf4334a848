"""The figures of a report: each a title, pictures, what they show in words, and a table of their numbers."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dreammpc.evaluation.aggregate import STATISTICS
from dreammpc.evaluation.results import Results
from dreammpc.evaluation.summary import THRESHOLDS, Estimate, Summary, Table
from dreammpc.report.drawing import SOFT, Picture, look, published_look
from dreammpc.report.inputs import Curve, Reference

STEPS_IN_K = 1000
LONGEST = 40
"""Letters of a method's name that fit beside its row."""
FEW = 12
"""A training of no more evaluations than this has larger dots at them."""
MANY = 5
"""With more methods than this, bands and bars would hide each other."""
QUARTERS = (0, 0.25, 0.5, 0.75, 1)
SHORTEST_MS, LONGEST_MS = 1e-9, 1e9
"""Times between these are drawn; a file may hold none, 0 or infinity."""


@dataclass
class Figure:
    """What a section of the page shows."""

    title: str
    pictures: list[tuple[str, str]]
    """Heading and SVG of each panel."""
    caption: str
    """How to read it."""
    legend: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    """Look and name of each line."""
    table: Table | None = None


def curves(found: Sequence[Curve], references: dict[str, list[Reference]]) -> Figure:
    """Return over environment steps, a panel for each task: all trainings, their mean, what is published.

    A task that reports success has a panel of that, too.
    """
    kinds = list(dict.fromkeys(curve.kind for curve in found))
    published = list(dict.fromkeys(ref.name for refs in references.values() for ref in refs))
    tasks = defaultdict(list)
    for curve in found:
        tasks[curve.title].append(curve)
    panels = [
        (task, _curve_panel(task, group, references.get(task, []), kinds, published))
        for task, group in sorted(tasks.items())
    ]
    legend = [(look(i), kind) for i, kind in enumerate(kinds)]
    legend += [(published_look(i), f"{name}, published") for i, name in enumerate(published)]
    caption = (
        "Mean return, or success at the last step, of each evaluation during training, over environment steps"
        " (simulator control steps)."
        " Dots: evaluations. Thin: one training seed of several; thick: their mean, where all have got to."
    )
    if any(curve.env_steps[0] < 0 for curve in found):
        caption += " Steps below 0 are updates on recorded data."
    if published:
        caption += (
            " Dashed: published curves, named by their key in the reference file. Between its points the line"
            " is straight, and a ratio to it rough."
        )
    return Figure("Learning curves", panels, caption, legend, curve_table(tasks, references))


def _curve_panel(
    task: str, group: list[Curve], references: list[Reference], kinds: list[str], published: list[str]
) -> str:
    first = min(curve.env_steps[0] for curve in group)
    end = max(curve.env_steps[-1] for curve in group)
    shown = []
    for ref in references:
        last = min(int(np.searchsorted(ref.env_steps, end)), len(ref.env_steps) - 1)  # the first point beyond
        shown.append((ref, last + 1))
    metric, digits = group[0].metric, group[0].digits
    picture = Picture(440, 290, "environment steps, thousands", metric)
    for ref, stop in shown:
        steps = ref.env_steps[:stop] / STEPS_IN_K
        index = published_look(published.index(ref.name))
        picture.line(steps, ref.mean[:stop], f"{ref.name}, published", index, 1.8)
    descriptions = []
    for i, kind in enumerate(kinds):
        own = [curve for curve in group if curve.kind == kind]
        for curve in own:
            thin = (1, 0.55) if len(own) > 1 else (2, 1)
            picture.line(
                curve.env_steps / STEPS_IN_K, curve.returns, f"{kind}, seed {curve.seed}", look(i), *thin
            )
        if len(own) > 1:
            common = sorted(set.intersection(*(set(curve.env_steps) for curve in own)))
            means = [np.mean([c.returns[c.env_steps == step] for c in own]) for step in common]
            picture.line(np.array(common) / STEPS_IN_K, means, f"{kind}, mean", look(i), 3)
        for curve in own:
            radius = 3.5 if len(curve.returns) <= FEW else 2
            for step, value in zip(curve.env_steps / STEPS_IN_K, curve.returns, strict=True):
                hint = f"{kind}, seed {curve.seed}, {step:g}k: {value:.{digits}f}"
                picture.dot(step, value, hint, look(i), radius)
        if own:
            last = np.mean([curve.returns[-1] for curve in own])
            descriptions.append(
                f"{kind}: {len(own)} trainings, the last evaluations at {last:.{digits}f} in the mean"
            )
    low, high = picture.axes.get_ylim()
    picture.axes.set(xlim=(min(0, first / STEPS_IN_K), None), ylim=(min(low, -0.06 * high), high))
    return picture.render(f"Learning curves on {task}", "; ".join(descriptions) + ".")


def curve_table(tasks: dict[str, list[Curve]], references: dict[str, list[Reference]]) -> Table:
    """The last evaluation of each training, and what was published at the same steps."""
    names = list(dict.fromkeys(ref.name for refs in references.values() for ref in refs))
    heads = ["task", "agent", "seed", "steps", "hours", "last"]
    heads += [text for name in names for text in (name, "ratio")]
    rows = []
    for task, group in sorted(tasks.items()):
        for curve in sorted(group, key=lambda curve: (curve.kind, curve.seed or 0)):
            steps, last = curve.env_steps[-1], curve.returns[-1]
            row = [task, curve.kind, str(curve.seed), f"{steps:,.0f}", f"{curve.hours:.2f}"]
            row.append(f"{last:.{curve.digits}f}")
            at = {ref.name: ref.at(steps) for ref in references.get(task, []) if ref.pixels == curve.pixels}
            for name in names:
                value = at.get(name, np.nan)
                row += [_number(value, curve.digits), _number(last / value if value > 0 else np.nan, 2)]
            rows.append(row)
    return heads, rows


def aggregates(results: Results, summary: Summary) -> Figure:
    """A panel for each statistic, a row for each method: estimate and interval."""
    panels = []
    for name in STATISTICS:
        found = {method: summary.aggregates[method][name] for method in results.methods}
        label = "optimality gap (lower is better)" if name == "optimality gap" else "normalized score"
        panels.append((name, _dots(name, found, label, results.methods)))
    caption = (
        "Normalized scores (return over what the environment calls a full one, 1000 in the control suite, or"
        f" success) over {', '.join(map(results.title, summary.tasks))}. IQM: the mean of the middle half of"
        " all runs. Optimality gap: by how much runs fall short of 1; lower is better." + _bars(summary)
    )
    return Figure("Aggregates", panels, caption)


def comparisons(results: Results, summary: Summary) -> Figure:
    """Probability of improvement, a panel for each method that others are held against."""
    panels = []
    for base in dict.fromkeys(comparison.base for comparison in summary.comparisons):
        found = {c.method: c.probability for c in summary.comparisons if c.base == base}
        name = f"against {base}"
        panels.append((name, _dots(name, found, "probability of improvement", results.methods, half=True)))
    caption = (
        "How likely it is that one scores higher than the other on a task drawn at random, for one training"
        " seed of each. Intervals that lie on one side of one half speak for a difference." + _bars(summary)
    )
    return Figure("One against another", panels, caption)


def _bars(summary: Summary) -> str:
    if summary.counts == [1]:
        return " One training seed for each task: no intervals can be given."
    return " Bars: 95 % stratified-bootstrap intervals over training seeds."


def _dots(name: str, found: dict[str, Estimate], label: str, methods: list[str], half: bool = False) -> str:
    """A row for each method's estimate, with its interval; `half` has a line at one half."""
    picture = Picture(430, 56 + 29 * len(found), label)
    descriptions = []
    for i, (method, estimate) in enumerate(found.items()):
        own, text = look(methods.index(method)), f"{method}: {estimate.text(3)}"
        if estimate.interval is not None:
            picture.line(estimate.interval, [i, i], text, own, 3, 0.5)
        picture.dot(estimate.value, i, text, own, radius=5)
        descriptions.append(f"{method} {estimate.text(3)}")
    picture.rows([_short(method) for method in found], [f"{each.value:.3f}" for each in found.values()])
    if half:
        picture.axes.set_xlim(0, 1)
        picture.axes.set_xticks(QUARTERS, map("{:g}".format, QUARTERS))
        picture.axes.axvline(0.5, color=SOFT, linewidth=0.72)
    return picture.render(name, "; ".join(descriptions) + ".")


def profiles(results: Results, summary: Summary) -> Figure:
    """Share of runs above each score."""
    picture = Picture(480, 310, "normalized score τ", "share of runs above τ")
    picture.axes.set(xlim=(0, 1), ylim=(0, 1))
    for axis in (picture.axes.xaxis, picture.axes.yaxis):
        axis.set_ticks(QUARTERS, map("{:g}".format, QUARTERS))
    for i, method in enumerate(results.methods):
        _, band = summary.profiles[method]
        if band is not None and len(results.methods) <= MANY:
            picture.axes.fill_between(
                THRESHOLDS, band.low, band.high, color=look(i)["color"], alpha=0.13, lw=0
            )
    for i, method in enumerate(results.methods):
        picture.line(THRESHOLDS, summary.profiles[method][0], method, look(i))
    marks = [0.1, 0.25, 0.5, 0.75, 0.9]
    rows = []
    for method in results.methods:
        values = [summary.profiles[method][0][round(100 * mark)] for mark in marks]
        rows.append([method, *(f"{value:.2f}" for value in values)])
    description = f"Share of runs above 0.5: {', '.join(f'{row[0]} {row[3]}' for row in rows)}."
    legend = [(look(i), method) for i, method in enumerate(results.methods)]
    caption = (
        "A run is one trained agent on one task. Higher is better; where lines cross, neither always is."
    )
    if any(band is not None for _, band in summary.profiles.values()):
        caption += " Bands: 95 % stratified-bootstrap intervals"
        caption += "." if len(results.methods) <= MANY else f", left out for more than {MANY} lines."
    panel = picture.render("Performance profiles", description)
    table = ["share of runs above", *map(str, marks)], rows
    return Figure("Performance profiles", [("", panel)], caption, legend, table)


def latency(results: Results, summary: Summary) -> Figure:
    """Milliseconds per action against the IQM."""
    scores = {method: summary.aggregates[method]["IQM"] for method in results.methods}
    times = {method: results.ms_per_action(method) for method in results.methods}
    shown = [method for method in results.methods if SHORTEST_MS < times[method] < LONGEST_MS]
    caption = "Wall time of the whole batch of episodes divided by its actions, mean over tasks and seeds"
    caption += f"{results.measured_on()}."
    if len(shown) < len(times):
        lacking = ", ".join(method for method in times if method not in shown)
        caption += f" Without a time that can be drawn: {lacking}."
    if len(shown) > MANY and summary.counts != [1]:
        caption += f" Intervals, left out for more than {MANY}, stand under Aggregates."
    rows = [[name, _number(times[name], 2), score.text(3)] for name, score in scores.items()]
    pictures = []
    if shown:
        picture = _latency_picture(
            shown, times, scores, [look(results.methods.index(name)) for name in shown]
        )
        description = (
            "; ".join(f"{name}: {ms} ms, IQM {score}" for name, ms, score in rows if name in shown) + "."
        )
        pictures = [("", picture.render("Planner latency against score", description))]
    return Figure("Latency against return", pictures, caption, table=(["planner", "ms", "IQM"], rows))


def _latency_picture(
    methods: list[str], times: dict[str, float], scores: dict[str, Estimate], looks: list[dict[str, Any]]
) -> Picture:
    """A dot, a bar and a name for each method."""
    height = 310 + 14 * max(0, len(methods) - MANY)
    picture = Picture(500, height, "milliseconds per action (logarithmic)", "IQM of normalized scores")
    points = []
    for method, own in zip(methods, looks, strict=True):
        ms, estimate = times[method], scores[method]
        text = f"{method}: {ms:.2f} ms, {estimate.text(3)}"
        if estimate.interval and len(methods) <= MANY:
            picture.line([ms, ms], estimate.interval, text, own, 3, 0.5)
        picture.dot(ms, estimate.value, text, own, radius=5)
        points.append((ms, estimate.value))
    picture.axes.set_xscale("log")
    picture.axes.xaxis.set_major_formatter("{x:g}")
    picture.axes.minorticks_off()
    picture.axes.margins(x=0.1, y=0.08)
    picture.names(points, [_short(method) for method in methods], [own["color"] for own in looks])
    return picture


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _number(value: float, digits: int) -> str:
    return "" if not np.isfinite(value) else f"{value:.{digits}f}"

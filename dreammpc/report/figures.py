"""The figures of a report: each a title, pictures, what they show in words, and a table of their numbers."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dreammpc.evaluation.aggregate import STATISTICS
from dreammpc.evaluation.results import Results
from dreammpc.evaluation.summary import THRESHOLDS, Estimate, Summary, Table
from dreammpc.report.inputs import Curve, Reference
from dreammpc.report.svg import Chart, Scale, around, colour

STEPS_IN_K = 1000
LONGEST = 40
"""Letters of a method's name that fit beside its row."""


@dataclass
class Figure:
    """What a section of the page shows."""

    title: str
    pictures: list[tuple[str, str]]
    """Heading and SVG of each panel."""
    caption: str
    """How to read it."""
    legend: list[tuple[str, str]] = field(default_factory=list)
    """Classes and name of each line."""
    table: Table | None = None


def curves(found: Sequence[Curve], references: dict[str, list[Reference]]) -> Figure:
    """Return over environment steps, a panel for each task: all trainings, their mean, what is published."""
    kinds = list(dict.fromkeys(curve.kind for curve in found))
    published = list(dict.fromkeys(ref.name for refs in references.values() for ref in refs))
    tasks = defaultdict(list)
    for curve in found:
        tasks[curve.task].append(curve)
    panels = [
        (task, _curve_panel(task, group, references.get(task, []), kinds, published))
        for task, group in sorted(tasks.items())
    ]
    legend = [(colour(i), kind) for i, kind in enumerate(kinds)]
    legend += [(f"faint f{i % 4}", f"{name}, published") for i, name in enumerate(published)]
    caption = (
        "Mean return of each evaluation during training, over environment steps (simulator control steps)."
        " Thin: one training seed each; thick: their mean, where all seeds have got to."
    )
    if published:
        caption += (
            " Dashed: published curves, named by their key in the reference file. Between its points the line"
            " is straight, and a ratio to it rough."
        )
    return Figure("Learning curves", panels, caption, legend, curve_table(tasks, references))


def _curve_panel(
    task: str, group: list[Curve], references: list[Reference], kinds: list[str], published: list[str]
) -> str:
    end = max(curve.env_steps[-1] for curve in group)
    shown = []
    for ref in references:
        last = min(int(np.searchsorted(ref.env_steps, end)), len(ref.env_steps) - 1)  # the first point beyond
        shown.append((ref, last + 1))
    heights = [value for curve in group for value in curve.returns]
    heights += [value for ref, stop in shown for value in ref.mean[:stop]]
    end = max([end, *(ref.env_steps[stop - 1] for ref, stop in shown)])
    low = min(0.0, *heights)
    chart = Chart(Scale(0, end / STEPS_IN_K), around([low, *heights], low=low))
    chart.axes("environment steps, thousands", "return")
    for ref, stop in shown:
        steps = ref.env_steps[:stop] / STEPS_IN_K
        chart.line(
            steps, ref.mean[:stop], f"faint f{published.index(ref.name) % 4}", f"{ref.name}, published"
        )
    told = []
    for i, kind in enumerate(kinds):
        own = [curve for curve in group if curve.kind == kind]
        for curve in own:
            steps = curve.env_steps / STEPS_IN_K
            chart.line(steps, curve.returns, f"{colour(i)} thin", f"{kind}, seed {curve.seed}")
            for step, value in zip(steps, curve.returns, strict=True):
                chart.dot(step, value, colour(i), f"seed {curve.seed}, {step:g}k: {value:.0f}", radius=2)
        if len(own) > 1:
            common = sorted(set.intersection(*(set(curve.env_steps) for curve in own)))
            means = [np.mean([c.returns[c.env_steps == step] for c in own]) for step in common]
            chart.line(np.array(common) / STEPS_IN_K, means, f"{colour(i)} thick", f"{kind}, mean")
        if own:
            last = np.mean([curve.returns[-1] for curve in own])
            told.append(f"{kind}: {len(own)} trainings, the last evaluations at {last:.0f} in the mean")
    return chart.render(f"Learning curves on {task}", "; ".join(told) + ".")


def curve_table(tasks: dict[str, list[Curve]], references: dict[str, list[Reference]]) -> Table:
    """The last evaluation of each training, and what was published at the same steps."""
    names = list(dict.fromkeys(ref.name for refs in references.values() for ref in refs))
    heads = ["task", "agent", "seed", "steps", "hours", "last return"]
    heads += [text for name in names for text in (name, "ratio")]
    rows = []
    for task, group in sorted(tasks.items()):
        for curve in sorted(group, key=lambda curve: (curve.kind, curve.seed or 0)):
            steps, last = curve.env_steps[-1], curve.returns[-1]
            row = [task, curve.kind, str(curve.seed), f"{steps:,.0f}", f"{curve.hours:.2f}", f"{last:.0f}"]
            at = {ref.name: ref.at(steps) for ref in references.get(task, [])}
            for name in names:
                value = at.get(name, np.nan)
                row += [_number(value, 0), _number(last / value if value > 0 else np.nan, 2)]
            rows.append(row)
    return heads, rows


def aggregates(results: Results, summary: Summary) -> Figure:
    """A panel for each statistic, a row for each method: estimate and interval."""
    panels = []
    for name in STATISTICS:
        found = {method: summary.aggregates[method][name] for method in results.methods}
        panels.append((name, _dots(name, found, "normalised score", results.methods)))
    caption = (
        f"Normalised scores (return / 1000, or success) over {', '.join(summary.tasks)}. IQM: the mean of the"
        " middle half of all runs. Optimality gap: by how much runs fall short of 1; lower is better."
        + _bars(summary)
    )
    return Figure("Aggregates", panels, caption)


def comparisons(results: Results, summary: Summary) -> Figure:
    """Probability of improvement, a panel for each method that others are held against."""
    panels = []
    for base in dict.fromkeys(comparison.base for comparison in summary.comparisons):
        found = {c.method: c.probability for c in summary.comparisons if c.base == base}
        scale = Scale(0, 1, ticks=(0, 0.25, 0.5, 0.75, 1))
        name = f"against {base}"
        panels.append((name, _dots(name, found, "probability of improvement", results.methods, scale, 0.5)))
    caption = (
        "How likely it is that one scores higher than the other on a task drawn at random, for one training"
        " seed of each. Intervals that lie on one side of one half speak for a difference." + _bars(summary)
    )
    return Figure("One against another", panels, caption)


def _bars(summary: Summary) -> str:
    if summary.counts == [1]:
        return " One training seed for each task: no intervals can be given."
    return " Bars: 95 % stratified-bootstrap intervals over training seeds."


def _dots(
    name: str,
    found: dict[str, Estimate],
    label: str,
    methods: list[str],
    scale: Scale | None = None,
    rule: float | None = None,
) -> str:
    """A row for each method's estimate, with its interval."""
    values = [estimate.value for estimate in found.values()]
    values += [float(end) for estimate in found.values() if estimate.interval for end in estimate.interval]
    longest = max(map(len, found))
    left, rows = 16 + 8 * min(longest, LONGEST), len(found)
    chart = Chart(scale or around(values), Scale(rows - 0.5, -0.5), width=300 + left, left=left, right=62)
    chart.height = 64 + 30 * rows
    chart.axes(label)
    if rule is not None:
        chart.parts.append(
            f'<path class="axis" d="M{chart.px(rule):.1f} {chart.top}V{chart.height - chart.bottom}"/>'
        )
    told = []
    for i, (method, estimate) in enumerate(found.items()):
        short = method if len(method) <= LONGEST else method[: LONGEST - 1] + "…"
        own = colour(methods.index(method))
        chart.text(left - 8, chart.py(i) + 4, short, "name end")
        if estimate.interval is not None:
            chart.line(estimate.interval, [i, i], f"{own} bar", f"{method}: {estimate.text(3)}")
        chart.dot(estimate.value, i, own, f"{method}: {estimate.text(3)}", radius=5)
        chart.text(chart.width - 48, chart.py(i) + 4, f"{estimate.value:.3f}", "tick")
        told.append(f"{method} {estimate.text(3)}")
    return chart.render(name, "; ".join(told) + ".")


def profiles(results: Results, summary: Summary) -> Figure:
    """Share of runs above each score."""
    shares = Scale(0, 1, ticks=(0, 0.25, 0.5, 0.75, 1))
    chart = Chart(shares, shares, width=480, height=310)
    chart.axes("normalised score τ", "share of runs above τ")
    for i, method in enumerate(results.methods):
        _, band = summary.profiles[method]
        if band is not None:
            chart.band(THRESHOLDS, band.low, band.high, colour(i))
    for i, method in enumerate(results.methods):
        chart.line(THRESHOLDS, summary.profiles[method][0], colour(i), method)
    marks = [0.1, 0.25, 0.5, 0.75, 0.9]
    rows = []
    for method in results.methods:
        values = [summary.profiles[method][0][round(100 * mark)] for mark in marks]
        rows.append([method, *(f"{value:.2f}" for value in values)])
    told = f"Share of runs above 0.5: {', '.join(f'{row[0]} {row[3]}' for row in rows)}."
    legend = [(colour(i), method) for i, method in enumerate(results.methods)]
    caption = (
        "A run is one trained agent on one task. Higher is better; where lines cross, neither always is."
    )
    if any(band is not None for _, band in summary.profiles.values()):
        caption += " Bands: 95 % stratified-bootstrap intervals."
    panel = chart.render("Performance profiles", told)
    table = ["share of runs above", *map(str, marks)], rows
    return Figure("Performance profiles", [("", panel)], caption, legend, table)


def latency(results: Results, summary: Summary) -> Figure:
    """Milliseconds per action against the IQM."""
    times = [results.ms_per_action(method) for method in results.methods]
    scores = [summary.aggregates[method]["IQM"] for method in results.methods]
    ends = [float(end) for estimate in scores if estimate.interval for end in estimate.interval]
    x = Scale(min(times) / 2, max(times) * 3, log=True)
    chart = Chart(
        x, around([*(estimate.value for estimate in scores), *ends]), width=480, height=310, right=24
    )
    chart.axes("milliseconds per action (logarithmic)", "IQM of normalised scores", y_format="{:.3g}")
    rows = []
    for i, (method, ms, estimate) in enumerate(zip(results.methods, times, scores, strict=True)):
        if estimate.interval is not None:
            chart.line([ms, ms], estimate.interval, f"{colour(i)} bar")
        chart.dot(ms, estimate.value, colour(i), f"{method}: {ms:.2f} ms, {estimate.text(3)}", radius=5)
        rows.append([method, f"{ms:.2f}", estimate.text(3)])
    _name_points(chart, results.methods, times, [estimate.value for estimate in scores])
    told = "; ".join(f"{name}: {ms} ms, IQM {score}" for name, ms, score in rows) + "."
    batches = "Wall time of the whole batch of episodes divided by its actions, mean over tasks and seeds."
    panel = chart.render("Planner latency against score", told)
    return Figure("Latency against return", [("", panel)], batches, table=(["planner", "ms", "IQM"], rows))


def _name_points(chart: Chart, names: Sequence[str], xs: Sequence[float], ys: Sequence[float]) -> None:
    """Write each point's name beside it, inside the picture and clear of the names before it."""
    taken: list[tuple[float, float, float]] = []
    for i, (name, x, y) in enumerate(zip(names, xs, ys, strict=True)):
        width, at = 7.4 * len(name), chart.py(y) + 4
        fits = chart.px(x) + 9 + width < chart.width
        left = chart.px(x) + 9 if fits else max(chart.left, chart.px(x) - 9 - width)
        step = 14 if at < chart.height / 2 else -14
        while any(abs(at - row) < 13 and left < end and begin < left + width for begin, end, row in taken):
            at += step
        taken.append((left, left + width, at))
        if fits:
            chart.text(left, at, name, f"name halo {colour(i)}")
        else:
            chart.text(left + width, at, name, f"name halo end {colour(i)}")


def _number(value: float, digits: int) -> str:
    return "" if not np.isfinite(value) else f"{value:.{digits}f}"

"""The report: one HTML page that needs nothing else."""

from collections import defaultdict
from datetime import date
from html import escape
from pathlib import Path

from dreammpc.evaluation.results import Results, collect
from dreammpc.evaluation.summary import (
    Summary,
    Table,
    aggregate_table,
    comparison_table,
    heading,
    many,
    success_table,
    summarize,
    task_table,
)
from dreammpc.report import figures
from dreammpc.report.drawing import swatch
from dreammpc.report.figures import Figure
from dreammpc.report.films import films
from dreammpc.report.inputs import Curve, Inputs


def render(inputs: Inputs, title: str) -> str:
    """The page's HTML.

    Raises:
        UsageError: scores that cannot be compared.
    """
    parts = [f"<h1>{escape(title)}</h1>"]
    notes: list[str] = []
    results = collect(inputs.rows) if inputs.rows else None
    if results is not None:
        parts.append(f'<p class="lead">Planners: {escape(heading(results))}</p>')
        notes += results.notes
    if inputs.curves:
        folders, tasks = {c.folder for c in inputs.curves}, {c.task for c in inputs.curves}
        parts.append(
            f'<p class="lead">Training: {many(len(folders), "run")} on {many(len(tasks), "task")}.</p>'
        )
        notes += curve_notes(inputs)
    elif inputs.reference:
        notes.append(
            f"{inputs.reference}: published curves are drawn only beside those of run folders; here are none."
        )
    if inputs.unevaluated:
        notes.append(f"Without evaluations: {', '.join(map(str, inputs.unevaluated))}.")
    parts.append(glossary(results))
    if notes:
        items = "".join(f"<li>{escape(note)}</li>" for note in notes)
        parts.append(f'<aside class="notes" aria-label="Notes"><ul>{items}</ul></aside>')
    if results is not None:
        parts += scores(results, summarize(results))
    if inputs.curves:
        parts.append(section(figures.curves(inputs.curves, inputs.references)))
    if inputs.videos:
        parts.append(films(inputs.videos, inputs.curves))
    parts.append(footer(inputs))
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n"
        f"<body><main>{chr(10).join(parts)}</main></body></html>\n"
    )


def scores(results: Results, summary: Summary) -> list[str]:
    """The sections about planners on trained agents."""
    parts = []
    if summary.aggregates:
        parts.append(section(figures.aggregates(results, summary), aggregate_table(results, summary)))
        parts.append(section(figures.profiles(results, summary)))
        parts.append(section(figures.latency(results, summary)))
    if summary.comparisons:
        parts.append(section(figures.comparisons(results, summary), comparison_table(summary)))
    caption = "Mean return over training seeds"
    caption += "." if summary.counts == [1] else ", with 95 % bootstrap intervals where there are several."
    table = html_table(task_table(results))
    parts.append(f"<section><h2>Returns by task</h2><p class='lead'>{caption}</p>{table}</section>")
    if successes := success_table(results):
        caption = "Share of episodes that succeeded at their last step, and in parentheses at any step."
        table = html_table(successes)
        parts.append(f"<section><h2>Success by task</h2><p class='lead'>{caption}</p>{table}</section>")
    return parts


def section(figure: Figure, table: Table | None = None) -> str:
    """A figure under its title; `table` is shown, the figure's own is folded away."""
    layout = {1: "panels single", 2: "panels two", 4: "panels two"}.get(len(figure.pictures), "panels")
    legend = "".join(f"<li>{swatch(look)}{escape(name)}</li>" for look, name in figure.legend)
    panels = "".join(
        f'<div class="panel">{f"<h3>{escape(name)}</h3>" if name else ""}{picture}</div>'
        for name, picture in figure.pictures
    )
    parts = [f"<h2>{escape(figure.title)}</h2><figure><figcaption>{escape(figure.caption)}</figcaption>"]
    parts += [f'<ul class="legend">{legend}</ul>'] if legend else []
    parts.append(f'<div class="{layout}">{panels}</div></figure>')
    if table:
        parts.append(html_table(table))
    if figure.table:
        parts.append(f"<details><summary>As a table</summary>{html_table(figure.table)}</details>")
    return f"<section>{''.join(parts)}</section>"


def html_table(table: Table) -> str:
    """An interval stands small under its number; what is too wide scrolls by itself."""
    heads, rows = table
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    content = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll" tabindex="0"><table>{content}</table></div>'


def _cell(text: str) -> str:
    number, bracket, rest = text.partition(" [")
    small = f'<span class="range">[{escape(rest)}</span>' if bracket else ""
    return f"<td>{escape(number)}{small}</td>"


def curve_notes(inputs: Inputs) -> list[str]:
    """What has to be said of the trainings."""
    notes = []
    groups: dict[tuple[str, str], list[Curve]] = defaultdict(list)
    for curve in inputs.curves:
        if curve.metric != "return":
            continue  # of the same trainings
        groups[curve.task, curve.kind].append(curve)
    alone = sorted({task for (task, _), own in groups.items() if len({curve.seed for curve in own}) == 1})
    if alone:
        notes.append(f"Learning curves of {', '.join(alone)}: one training seed only.")
    for (task, kind), own in groups.items():
        differ = [name for name in own[0].settings if len({str(c.settings.get(name)) for c in own}) > 1]
        if differ:
            notes.append(f"{task}, {kind}: these trainings differ in {', '.join(differ)}.")
    for title, found in inputs.references.items():
        own = [curve for curve in inputs.curves if curve.title == title]
        for pixels in sorted({curve.pixels for curve in own} - {ref.pixels for ref in found}):
            name = f"{own[0].task} from pixels" if pixels else own[0].task
            what = "returns" if own[0].metric == "return" else own[0].metric
            notes.append(f"{name}: the reference file has no curve of {what}.")
    return notes


def glossary(results: Results | None) -> str:
    """The words of the page that an outsider cannot know, one sentence each."""
    texts = ["A planner chooses each action by trying sequences of actions in a learned model of the world."]
    if results is not None:
        if any(method.split()[0] == "policy" for method in results.methods):
            texts.append("“policy” is the trained policy alone, without planning.")
        if results.mode == "greedy":
            texts.append("Greedy: actions are played as they were chosen, without noise for exploration.")
        else:
            texts.append(f"{results.mode}: noise for exploration is added to each action, of this scale.")
        texts.append("Model steps: how often the model predicts one step ahead, here to choose one action.")
    return (
        f'<ul class="terms" aria-label="Terms">{"".join(f"<li>{escape(text)}</li>" for text in texts)}</ul>'
    )


def footer(inputs: Inputs) -> str:
    """When, on what and from what."""
    rows = inputs.rows
    texts = [f"Made on {date.today().isoformat()} by dreammpc."]
    machines = list(dict.fromkeys(row["machine"] for row in rows))
    versions: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, text in sorted(row["versions"].items()):
            versions.setdefault(name, {})[text] = None
    named = ", ".join(f"{name} {' and '.join(texts)}" for name, texts in versions.items())
    checkpoints = list(dict.fromkeys(f"{row['checkpoint']} ({row['task']})" for row in rows))
    texts += [f"Machine: {'; '.join(machines)}.", f"Versions: {named}."] if rows else []
    texts += [f"Agents: {', '.join(checkpoints)}."] if checkpoints else []
    runs = list(dict.fromkeys(f"{c.folder} ({c.task}, seed {c.seed})" for c in inputs.curves))
    texts += [f"Run folders: {', '.join(runs)}."] if runs else []
    texts += [f"Published curves: {inputs.reference}."] if inputs.reference and inputs.curves else []
    return f"<footer>{''.join(f'<p>{escape(text)}</p>' for text in texts)}</footer>"

"""The report: one HTML page that needs nothing else."""

import base64
import io
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from html import escape
from pathlib import Path

import numpy as np

from dreammpc.evaluation.results import Results, collect
from dreammpc.evaluation.rows import Row
from dreammpc.evaluation.summary import (
    Summary,
    Table,
    aggregate_table,
    comparison_table,
    heading,
    many,
    summarise,
    task_table,
)
from dreammpc.report import figures
from dreammpc.report.figures import Figure
from dreammpc.report.inputs import Curve, Inputs
from dreammpc.report.svg import swatch

FRAMES, FRAME_HEIGHT = 6, 160


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
    if notes:
        told = "".join(f"<li>{escape(note)}</li>" for note in notes)
        parts.append(f'<aside class="notes" aria-label="Notes"><ul>{told}</ul></aside>')
    if results is not None:
        parts += scores(results, summarise(results))
    if inputs.curves:
        parts.append(section(figures.curves(inputs.curves, inputs.references)))
    if inputs.videos:
        parts.append(films(inputs.videos))
    parts.append(footer(inputs.rows))
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
    return parts


def section(figure: Figure, table: Table | None = None) -> str:
    """A figure under its title; `table` is shown, the figure's own is folded away."""
    layout = {1: "panels single", 2: "panels two", 4: "panels two"}.get(len(figure.pictures), "panels")
    legend = "".join(f"<li>{swatch(classes)}{escape(name)}</li>" for classes, name in figure.legend)
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
        groups[curve.task, curve.kind].append(curve)
    alone = sorted({task for (task, _), own in groups.items() if len({curve.seed for curve in own}) == 1})
    if alone:
        notes.append(f"Learning curves of {', '.join(alone)}: one training seed only.")
    for (task, kind), own in groups.items():
        differ = [name for name in own[0].settings if len({str(c.settings.get(name)) for c in own}) > 1]
        if differ:
            notes.append(f"{task}, {kind}: these trainings differ in {', '.join(differ)}.")
    for task, found in inputs.references.items():
        if not found:
            notes.append(f"{task}: the reference file has no curve of returns.")
    return notes


def films(videos: Sequence[Path]) -> str:
    """Frames of each video, evenly spaced."""
    parts = []
    for path in videos:
        strip = base64.b64encode(film_strip(path)).decode()
        alt = f"{FRAMES} frames of {path.name}, evenly spaced from the first to the last"
        parts.append(
            f'<figure class="panel" style="max-width:none"><h3>{escape(path.stem)}</h3>'
            f'<img alt="{escape(alt)}" src="data:image/jpeg;base64,{strip}"></figure>'
        )
    return f'<section><h2>Videos</h2><div class="films">{"".join(parts)}</div></section>'


def film_strip(path: Path) -> bytes:
    """A JPEG of `FRAMES` frames in a row.

    Raises:
        UsageError: a video that cannot be read.
    """
    import imageio.v3 as iio
    from PIL import Image

    from dreammpc.interfaces import UsageError

    try:
        frames = np.stack(list(iio.imiter(path)))
    except Exception as error:  # the readers raise what they like
        raise UsageError(f"video {path} cannot be read ({type(error).__name__})") from error
    chosen = frames[np.linspace(0, len(frames) - 1, FRAMES).round().astype(int)]
    width = round(frames.shape[2] * FRAME_HEIGHT / frames.shape[1])
    row = np.concatenate(
        [np.asarray(Image.fromarray(f).resize((width, FRAME_HEIGHT))) for f in chosen], axis=1
    )
    file = io.BytesIO()
    Image.fromarray(row).convert("RGB").save(file, "JPEG", quality=82)
    return file.getvalue()


def footer(rows: Sequence[Row]) -> str:
    """When, on what and from what."""
    told = [f"Made on {date.today().isoformat()} by dreammpc."]
    machines = list(dict.fromkeys(row["machine"] for row in rows))
    versions = list(
        dict.fromkeys(
            ", ".join(f"{name} {text}" for name, text in sorted(row["versions"].items())) for row in rows
        )
    )
    checkpoints = list(dict.fromkeys(f"{row['checkpoint']} ({row['task']})" for row in rows))
    told += [f"Machine: {'; '.join(machines)}.", f"Versions: {'; '.join(versions)}."] if rows else []
    told += [f"Agents: {', '.join(checkpoints)}."] if checkpoints else []
    return f"<footer>{''.join(f'<p>{escape(text)}</p>' for text in told)}</footer>"

"""Run folders and scores → one page, or Markdown tables."""

from collections.abc import Sequence
from pathlib import Path

from dreammpc.evaluation.results import collect
from dreammpc.evaluation.summary import markdown, summarize
from dreammpc.interfaces import UsageError
from dreammpc.report.inputs import read
from dreammpc.report.page import render
from dreammpc.support.atomic import check_not_read, write_text

__all__ = ["write_report"]


def write_report(
    paths: str | Path | Sequence[str | Path],
    output: str | Path,
    reference: str | Path | None = None,
    title: str = "Planning in learned world models",
) -> None:
    """Write a report, in one atomic step.

    Args:
        paths: run folders, files of scores (.csv, .json) and videos.
        output: a page that needs nothing else (.html), or the tables of the scores (.md).
        reference: a file of published learning curves, see docs/evaluation.md.
        title: of the page.

    Raises:
        UsageError: a file that is missing, damaged or of another kind; scores that cannot be compared.
    """
    target = Path(output)
    if target.suffix not in (".html", ".md"):
        raise UsageError(f"output {output}: expected a name that ends in .html or .md")
    if reference is not None and target.suffix == ".md":
        raise UsageError(f"reference {reference}: published curves need a page (.html), not tables")
    named = [paths] if isinstance(paths, str | Path) else paths
    check_not_read(target, [*named, reference] if reference is not None else named)
    inputs = read(named, reference)
    if target.suffix == ".html":
        text = render(inputs, title)
    elif inputs.rows:
        results = collect(inputs.rows)
        text = markdown(results, summarize(results)) + "\n"
    else:
        raise UsageError(f"output {output}: tables are made of scores (.csv, .json), and there are none")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, text)
    except OSError as error:
        raise UsageError(f"output {output} cannot be written: {error.strerror}") from error

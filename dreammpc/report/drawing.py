"""Pictures of a report: matplotlib's SVG in the colors and the font of the page.

matplotlib draws with placeholders of colors, which become variables of the page's style, so that a picture
is dark where the page is dark and prints on white. Text stays text. matplotlib is imported when it draws.
"""

import io
import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from html import escape
from itertools import count
from typing import Any

INK, SOFT, RULE, PAPER = "#0a0a01", "#0a0a02", "#0a0a03", "#0a0a04"
VARIABLES = {INK: "ink", SOFT: "soft", RULE: "rule", PAPER: "paper"}
VARIABLES |= {f"#0b0b{i:02d}": f"k{i}" for i in range(8)} | {f"#0c0c{i:02d}": f"m{i}" for i in range(4)}
"""Placeholder → variable of page.css: kN are colors of methods, mN muted ones."""
DASHES = ("-", (0, (6, 2.5)), (0, (1.6, 2.4)), (0, (6, 2.5, 1.6, 2.5)))
PIXEL = 0.72
"""Points of a CSS pixel at matplotlib's 100 dots per inch; SVG is written in points."""
STYLE: Any = {
    "svg.fonttype": "none",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "svg.hashsalt": "dreammpc",
    "text.parse_math": False,
    "font.size": 12.5 * PIXEL,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.linewidth": PIXEL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.xmargin": 0.03,
    "axes.ymargin": 0.06,
    "grid.color": RULE,
    "grid.linewidth": PIXEL,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.major.size": 0,
    "xtick.major.pad": 5 * PIXEL,
    "ytick.major.pad": 6 * PIXEL,
    "axes.labelpad": 6 * PIXEL,
    "ytick.major.size": 0,
    "lines.linewidth": 2 * PIXEL,
    "lines.solid_joinstyle": "round",
}
_numbers = count()


def look(index: int) -> dict[str, Any]:
    """Color and dash of the line or mark with this number; more lines than colors are dashed."""
    return {"color": f"#0b0b{index % 8:02d}", "linestyle": DASHES[index // 8 % len(DASHES)]}


def published_look(index: int) -> dict[str, Any]:
    """A muted color and a dash, both other than its neighbors'."""
    return {"color": f"#0c0c{index % 4:02d}", "linestyle": DASHES[1 + (index + index // 4) % 3]}


def styled() -> AbstractContextManager[None]:
    """matplotlib in the style of the page; what is made within keeps it."""
    import matplotlib

    return matplotlib.rc_context(STYLE)


class Picture:
    """One pair of axes.

    Args:
        width, height: in pixels of the page.
        x_label, y_label: of the axes.
    """

    def __init__(self, width: int, height: int, x_label: str, y_label: str = ""):
        from matplotlib.figure import Figure

        with styled():
            self.figure = Figure((width / 100, height / 100), layout="constrained")
            self.axes = self.figure.add_subplot()
            self.axes.set(xlabel=x_label, ylabel=y_label)
            self.axes.locator_params(nbins=5)
        self._hints: dict[str, str] = {}

    def hint(self, artist: Any, text: str) -> None:
        """Show `text` where a pointer rests on what was drawn."""
        name = f"hint{next(_numbers)}"
        artist.set_gid(name)
        self._hints[name] = text

    def line(
        self, xs: Any, ys: Any, text: str, look: dict[str, Any], width: float = 2, alpha: float = 1
    ) -> None:
        """A line through points; `text` is shown where a pointer rests, `width` is in pixels."""
        (drawn,) = self.axes.plot(xs, ys, linewidth=width * PIXEL, alpha=alpha, **look)
        self.hint(drawn, text)

    def dot(self, x: float, y: float, text: str, look: dict[str, Any], radius: float = 4) -> None:
        """A mark; hollow where its line is dashed."""
        solid = look["linestyle"] == "-"
        fill, edge = (look["color"], PAPER) if solid else (PAPER, look["color"])
        size = 2 * radius * PIXEL
        (drawn,) = self.axes.plot(
            [x], [y], "o", ms=size, mfc=fill, mec=edge, mew=PIXEL, zorder=3, clip_on=False
        )
        self.hint(drawn, text)

    def rows(self, names: Sequence[str], values: Sequence[str]) -> None:
        """Rows from the top, each with a name on the left and a value on the right."""
        with styled():
            self.axes.set_yticks(range(len(names)), names, color=INK)
            self.axes.set_ylim(len(names) - 0.5, -0.5)
            self.axes.grid(False, axis="y")
            for row, value in enumerate(values):
                where = self.axes.get_yaxis_transform()
                self.axes.text(1.04, row, value, transform=where, va="center", color=SOFT)

    def names(
        self, points: Sequence[tuple[float, float]], names: Sequence[str], colors: Sequence[str]
    ) -> None:
        """A name for each point in a column on the right, a line from each to its point."""
        order = sorted(range(len(points)), key=lambda i: points[i][1])
        room = 17 / (100 * self.figure.get_figheight() - 60)  # of a name, as a share of the axes' height
        low, high = self.axes.get_ylim()
        places = [(points[i][1] - low) / (high - low) for i in order]
        for k in range(1, len(places)):
            places[k] = max(places[k], places[k - 1] + room)
        places = [place - max(0.0, places[-1] - 1) for place in places]
        for i, place in zip(order, places, strict=True):
            line: dict[str, Any] = {
                "arrowstyle": "-",
                "color": colors[i],
                "lw": PIXEL,
                "alpha": 0.6,
                "shrinkB": 4,
            }
            where: dict[str, Any] = {"xytext": (1.02, place), "textcoords": "axes fraction", "va": "center"}
            with styled():
                self.axes.annotate(
                    names[i], points[i], color=colors[i], weight="bold", arrowprops=line, **where
                )

    def render(self, title: str, description: str) -> str:
        """The picture as SVG, with its text alternative; its identifiers are unique on a page."""
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        target = io.StringIO()
        with styled(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing")  # the page's font may have it
            FigureCanvasSVG(self.figure).print_svg(target, metadata={"Date": None, "Creator": None})
        name = f"f{next(_numbers)}"
        text = target.getvalue()
        text = text[text.index("<svg") :].strip()
        text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.S)
        text = re.sub(r"#0[abc]0[abc]\d\d", lambda found: f"var(--{VARIABLES[found[0]]})", text)
        text = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", text)
        text = re.sub(r"(font: [^;\"]*?\d+(?:\.\d+)?px) [^;\"]*", r"\1 system-ui, sans-serif", text)
        for gid, hint in self._hints.items():
            text = text.replace(f'<g id="{gid}">', f"<g><title>{escape(hint)}</title>", 1)
        needed = set(re.findall(r"#(\w+)", text))  # markers and clips that something refers to
        text = re.sub(
            r' id="([^"]+)"', lambda found: f' id="{name}{found[1]}"' if found[1] in needed else "", text
        )
        text = re.sub(r"#(\w+)(?=[\")])", rf"#{name}\1", text)
        box = re.findall('viewBox="([^"]+)"', text)[0]
        head = f'<svg viewBox="{box}" role="img"'
        head += f' aria-labelledby="{name}t {name}d"><title id="{name}t">{escape(title)}</title>'
        return f'{head}<desc id="{name}d">{escape(description)}</desc>{text[text.index(">") + 1 :]}'


def swatch(style: dict[str, Any]) -> str:
    """A short line for a legend."""
    dash = style["linestyle"]
    dashed = "" if dash == "-" else f' stroke-dasharray="{" ".join(f"{2 * part:g}" for part in dash[1])}"'
    color = f"var(--{VARIABLES[style['color']]})"
    line = f'<path d="M0 4H40" fill="none" stroke="{color}" stroke-width="2"{dashed}/>'
    return f'<svg class="swatch" viewBox="0 0 40 8" aria-hidden="true">{line}</svg>'

"""A few primitives of charts, as SVG that takes its colours and fonts from the page's style.

Classes: `cN` names a colour, `mN` a muted one, `line`, `band`, `dot`, `faint` say what is drawn. Coordinates
are in pixels of the view box; the page scales it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import count
from typing import Any

import numpy as np

COLOURS = 8
"""That the style defines, c0 to c7; more lines than that are dashed."""
_numbers = count()


def colour(index: int) -> str:
    """Classes of the line or mark with this number."""
    return f"c{index % COLOURS}" + (f" d{index // COLOURS}" if index >= COLOURS else "")


def published_colour(index: int) -> str:
    """Classes of a published curve: a muted colour and a dash, both other than its neighbours'."""
    return f"faint m{index % 4} f{(index + index // 4) % 4}"


@dataclass(frozen=True)
class Scale:
    """Values to pixels.

    Args:
        low, high: values at the ends.
        log: of powers of ten.
        ticks: the values to write; nice ones by default.
    """

    low: float
    high: float
    log: bool = False
    ticks: Sequence[float] = ()

    def share(self, value: float) -> float:
        """0 at `low`, 1 at `high`."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        place = math.log(max(value, 1e-12)) if self.log else value
        return (place - low) / (high - low)

    def marks(self) -> list[float]:
        """The values to write, those within the ends."""
        if self.ticks:
            return [tick for tick in self.ticks if self.low <= tick <= self.high]
        if self.log:
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            powers = [10.0**e for e in exponents]
            inside = [power for power in powers if self.low <= power <= self.high]
            if len(inside) < 3:
                powers = [power * factor for power in powers for factor in (1, 2, 5)]
                inside = [power for power in powers if self.low <= power <= self.high]
            return inside[:: 1 + len(inside) // 8]
        raw = (self.high - self.low) / 4
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
        first = math.ceil(self.low / step - 1e-9)
        return [step * i for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def around(values: Sequence[float], low: float | None = None, high: float | None = None) -> Scale:
    """A scale that holds all `values` with a little room; `low` and `high` set its ends."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    least, most = min(finite), max(finite)
    room = 0.06 * (most - least) or 0.1 * abs(most) or 1.0
    return Scale(least - room if low is None else low, most + room if high is None else high)


@dataclass
class Chart:
    """Axes, and what is drawn between them."""

    x: Scale
    y: Scale
    width: int = 440
    height: int = 290
    left: int = 54
    right: int = 16
    top: int = 14
    bottom: int = 46
    parts: list[str] = field(default_factory=list)

    def px(self, value: float) -> float:
        """Where a value of x lies."""
        return self.left + self.x.share(value) * (self.width - self.left - self.right)

    def py(self, value: float) -> float:
        """Where a value of y lies."""
        return self.height - self.bottom - self.y.share(value) * (self.height - self.top - self.bottom)

    def axes(self, x_label: str, y_label: str = "", x_format: str = "{:g}", y_format: str = "{:g}") -> None:
        """Rules, ticks and labels; an empty `y_label` leaves the y axis out."""
        floor = self.height - self.bottom
        for tick in self.x.marks():
            at = self.px(tick)
            self.parts.append(f'<path class="grid" d="M{at:.1f} {self.top}V{floor}"/>')
            self.text(at, floor + 17, x_format.format(tick), "tick middle")
        if y_label:
            for tick in self.y.marks():
                at = self.py(tick)
                self.parts.append(f'<path class="grid" d="M{self.left} {at:.1f}H{self.width - self.right}"/>')
                self.text(self.left - 7, at + 4, y_format.format(tick), "tick end")
            middle = (self.top + floor) / 2
            turned = f' transform="rotate(-90 13 {middle:.0f})"'
            self.text(13, middle, y_label, "label middle", turned)
        self.parts.append(f'<path class="axis" d="M{self.left} {floor}H{self.width - self.right}"/>')
        self.text((self.left + self.width - self.right) / 2, self.height - 6, x_label, "label middle")

    def line(self, xs: Iterable[Any], ys: Iterable[Any], classes: str, told: str = "") -> None:
        """A line through the points; `told` is shown where a pointer rests."""
        pairs = [(self.px(x), self.py(y)) for x, y in zip(xs, ys, strict=True)]
        points = [f"{px:.1f} {py:.1f}" for px, py in pairs if np.isfinite([px, py]).all()]
        if points:
            self.parts.append(f'<path class="line {classes}" d="M{"L".join(points)}">{_told(told)}</path>')

    def band(self, xs: Any, low: Iterable[Any], high: Iterable[Any], classes: str) -> None:
        """The area between two lines."""
        there = [f"{self.px(x):.1f} {self.py(y):.1f}" for x, y in zip(xs, high, strict=True)]
        back = [f"{self.px(x):.1f} {self.py(y):.1f}" for x, y in zip(xs, low, strict=True)]
        self.parts.append(f'<path class="band {classes}" d="M{"L".join([*there, *back[::-1]])}Z"/>')

    def dot(self, x: float, y: float, classes: str, told: str = "", radius: float = 4) -> None:
        """A mark; none for what is not a finite number."""
        px, py = self.px(x), self.py(y)
        if not np.isfinite([px, py]).all():
            return
        where = f'cx="{px:.1f}" cy="{py:.1f}" r="{radius:g}"'
        self.parts.append(f'<circle class="dot {classes}" {where}>{_told(told)}</circle>')

    def frame(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of what lies between the axes, in pixels."""
        return self.left, self.top, self.width - self.right, self.height - self.bottom

    def segment(self, start: tuple[float, float], end: tuple[float, float], classes: str) -> None:
        """A straight line between pixels, not values."""
        (x, y), (end_x, end_y) = start, end
        self.parts.append(f'<path class="line {classes}" d="M{x:.1f} {y:.1f}L{end_x:.1f} {end_y:.1f}"/>')

    def text(self, x: float, y: float, text: str, classes: str, more: str = "") -> None:
        """Text at pixels, not values."""
        self.parts.append(f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}"{more}>{escape(text)}</text>')

    def render(self, title: str, description: str) -> str:
        """The picture, with its text alternative."""
        name = f"f{next(_numbers)}"
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-labelledby="{name}t {name}d">'
            f'<title id="{name}t">{escape(title)}</title><desc id="{name}d">{escape(description)}</desc>'
            f"{''.join(self.parts)}</svg>"
        )


def swatch(classes: str) -> str:
    """A short line for a legend."""
    line = f'<path class="line {classes}" d="M0 4H40"/>'
    return f'<svg class="swatch" viewBox="0 0 40 8" aria-hidden="true">{line}</svg>'


def _told(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""

"""Where the names of points go: inside the picture, over no mark and over no other name."""

import math
from collections.abc import Iterator, Sequence

Point = tuple[float, float]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""

LETTER, HEIGHT = 9, 16
"""Room for a letter of a name and for its line, in pixels; fonts differ, and this is a wide one."""
GAP = 9
"""Between the middle of a dot and a name beside it, in pixels."""
GRID = 6
"""Pixels between the places that are tried for a name that does not fit beside its dot."""


def place(
    points: Sequence[Point], names: Sequence[str], dots: Sequence[Box], bars: Sequence[Box], frame: Box
) -> list[Box | None]:
    """A box for each point's name: beside its dot where that is free, else at the nearest place that is.

    Where dots crowd so that a line from one can't leave without crossing another, it does cross.

    Args:
        points: middles of the dots.
        names: one for each.
        dots: what no name may lie over, and no line to a name if that can be.
        bars: what no name may lie over.
        frame: what all names must lie in.

    Returns:
        A box for each name, or `None` where there is no room left.
    """
    taken, leads = list(dots), list[Box]()
    found: list[Box | None] = [None] * len(points)
    for places, clear in ((_beside, True), (_anywhere, True), (_anywhere, False)):
        for i, (point, name) in enumerate(zip(points, names, strict=True)):
            if found[i] is not None:
                continue
            for box in places(point, LETTER * len(name), frame):
                lead = _leader_boxes(point, box)
                free = _inside(box, frame) and not _meet([box], [*taken, *bars, *leads])
                if free and not (clear and _meet(lead, [*taken, *leads])):
                    found[i] = box
                    taken.append(box)
                    leads += lead
                    break
    return found


def leader(point: Point, box: Box) -> tuple[Point, Point] | None:
    """Ends of the line from a dot to its name; `None` where the name is beside the dot."""
    end = _nearest(point, box)
    distance = math.dist(point, end)
    if distance < GAP + 2:
        return None
    share = (GAP - 2) / distance
    return (point[0] + share * (end[0] - point[0]), point[1] + share * (end[1] - point[1])), end


def anchor(point: Point, box: Box) -> tuple[float, str]:
    """Where the name's text starts, ends or has its middle: on the side of the dot."""
    left, _, right, _ = box
    if left >= point[0]:
        return left, ""
    if right <= point[0]:
        return right, "end"
    return (left + right) / 2, "middle"


def _beside(point: Point, width: float, frame: Box) -> Iterator[Box]:
    x, y = point
    half = HEIGHT / 2
    yield x + GAP, y - half, x + GAP + width, y + half
    yield x - GAP - width, y - half, x - GAP, y + half
    yield x - width / 2, y - GAP - HEIGHT, x + width / 2, y - GAP
    yield x - width / 2, y + GAP, x + width / 2, y + GAP + HEIGHT


def _anywhere(point: Point, width: float, frame: Box) -> list[Box]:
    """All places on a grid, the nearest first."""
    columns = int((frame[2] - width - frame[0]) // GRID) + 1
    rows = int((frame[3] - HEIGHT - frame[1]) // GRID) + 1
    corners = [(frame[0] + GRID * i, frame[1] + GRID * j) for i in range(columns) for j in range(rows)]
    boxes = [(left, top, left + width, top + HEIGHT) for left, top in corners]
    return sorted(boxes, key=lambda box: math.dist(point, _nearest(point, box)))


def _nearest(point: Point, box: Box) -> Point:
    """The point of a box that is nearest to `point`."""
    left, top, right, bottom = box
    return min(max(point[0], left), right), min(max(point[1], top), bottom)


def _leader_boxes(point: Point, box: Box) -> list[Box]:
    """Small boxes along the line from a dot to its name, from where it has left its own dot."""
    ends = leader(point, box)
    if ends is None:
        return []
    (x, y), (end_x, end_y) = ends
    count = int(math.dist(*ends) // 3) + 1
    on_line = [(x + i / count * (end_x - x), y + i / count * (end_y - y)) for i in range(count)]
    return [(at - 1, up - 1, at + 1, up + 1) for at, up in on_line if math.dist(point, (at, up)) > GAP + 3]


def _inside(box: Box, frame: Box) -> bool:
    return box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]


def _meet(some: Sequence[Box], others: Sequence[Box]) -> bool:
    """Whether any of `some` lies over any of `others`."""
    return any(
        one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
        for one in some
        for other in others
    )

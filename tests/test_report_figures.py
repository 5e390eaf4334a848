"""The figures of a report: names that can be read, whatever the number of methods and their times."""

import math
import random
import re

import numpy as np
import pytest
from score_rows import MILLISECONDS, QUALITY, score_rows

from dreammpc.evaluation.results import collect
from dreammpc.evaluation.summary import summarise
from dreammpc.report import figures, labels
from dreammpc.report.inputs import Curve
from dreammpc.report.svg import published_colour

FRAME = (54, 14, 464, 350)


def meet(one, other):
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def scores_of(count, monkeypatch):
    """Results of so many planners, of about the same quality and speed."""
    names = [f"planner_{i:02}" for i in range(count)]
    for i, name in enumerate(names):
        monkeypatch.setitem(QUALITY, name, 0.7 + 0.01 * i)
        monkeypatch.setitem(MILLISECONDS, name, 20.0 + i)
    results = collect(score_rows(planners=names))
    return results, summarise(results)


@pytest.mark.parametrize("count", [1, 3, 11, 16])
@pytest.mark.parametrize("spread", [0, 30, 300])
def test_names_cover_nothing(count, spread):
    rng = random.Random(count)
    points = [
        (230 + spread * (rng.random() - 0.5) * 1.3, 180 + spread * (rng.random() - 0.5)) for _ in range(count)
    ]
    names = [f"planner number {i}" for i in range(count)]
    dots = [(x - 7, y - 7, x + 7, y + 7) for x, y in points]
    bars = [(x - 3, y - 50, x + 3, y + 50) for x, y in points] if count <= figures.MANY else []
    places = labels.place(points, names, dots, bars, FRAME)
    assert None not in places
    for i, box in enumerate(places):
        assert FRAME[0] <= box[0] and FRAME[1] <= box[1] and box[2] <= FRAME[2] and box[3] <= FRAME[3]
        assert not any(meet(box, other) for other in [*dots, *bars, *places[:i]])


def test_a_name_at_the_edge_and_one_without_room():
    frame = (0, 0, 200, 100)
    (place,) = labels.place([(195, 50)], ["mppi horizon=5"], [], [], frame)
    assert place and place[2] <= 195 - labels.GAP
    assert labels.leader((195, 50), place) is None and labels.anchor((195, 50), place) == (place[2], "end")
    assert labels.place([(195, 50)], ["x" * 100], [], [], frame) == [None]
    assert labels.place([(100, 50)], ["a"], [], [(0, 0, 200, 80)], frame)[0][1] >= 80


def test_a_line_leads_to_a_name_that_is_far():
    ends = labels.leader((0, 0), (30, 40, 60, 56))
    assert ends is not None and ends[1] == (30, 40)
    assert math.hypot(*ends[0]) == pytest.approx(labels.GAP - 2)


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan, 0.0])
def test_times_that_are_no_times_are_not_drawn(wrong, monkeypatch):
    results, summary = scores_of(3, monkeypatch)
    for run in results.runs["planner_01", "cup-catch"]:
        run.ms_per_action = wrong
    if wrong == 0:
        for run in results.runs["planner_01", "walker-walk"]:
            run.ms_per_action = wrong
    figure = figures.latency(results, summary)
    ((_, picture),) = figure.pictures
    assert picture.count("<circle") == 2 and "planner_01" not in picture
    assert "inf" not in picture and "nan" not in picture.replace("planner", "")
    assert "Without a time that can be drawn: planner_01." in figure.caption
    for runs in results.runs.values():
        for run in runs:
            run.ms_per_action = wrong
    assert figures.latency(results, summary).pictures == []


def test_many_methods_have_no_bands_and_no_bars(monkeypatch):
    few, many = scores_of(5, monkeypatch), scores_of(11, monkeypatch)
    for make, mark in ((figures.profiles, 'class="band '), (figures.latency, " bar")):
        assert make(*few).pictures[0][1].count(mark) == 5
        assert make(*many).pictures[0][1].count(mark) == 0
        assert "left out for more than 5" in make(*many).caption
        assert "left out" not in make(*few).caption
    picture = figures.latency(*many).pictures[0][1]
    assert all(f">planner_{i:02}</text>" in picture for i in range(11))


def test_evaluations_at_0_lie_above_the_axis():
    steps, returns = np.array([1e4, 2e4]), np.array([0.0, 0.0])
    curve = Curve("a", "walk", 1, "tdmpc2 nano, policy", steps, returns, 1.0, False, {})
    ((_, picture),) = figures.curves([curve], {}).pictures
    heights = [float(text) for text in re.findall(r'cy="([^"]+)"', picture)]
    axis = float(re.search(r'class="axis" d="M[\d.]+ ([\d.]+)H', picture).group(1))
    assert len(heights) == 2 and all(height < axis - 5 for height in heights)


def test_published_curves_differ_in_colour_and_dash():
    assert len({published_colour(i) for i in range(16)}) == 16
    assert len({published_colour(i).split()[1] for i in range(4)}) == 4
    assert len({published_colour(i).split()[2] for i in range(4)}) == 4

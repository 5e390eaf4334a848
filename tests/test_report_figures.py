"""The figures of a report: names that can be read, whatever the number of methods and their times."""

import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from score_rows import MILLISECONDS, QUALITY, score_rows

from dreammpc.evaluation.results import collect
from dreammpc.evaluation.summary import Estimate, summarize
from dreammpc.report import figures
from dreammpc.report.drawing import Picture, look, published_look, swatch
from dreammpc.report.inputs import Curve, Reference


def scores_of(count, monkeypatch):
    """Results of so many planners, of about the same quality and speed."""
    names = [f"planner_{i:02}" for i in range(count)]
    for i, name in enumerate(names):
        monkeypatch.setitem(QUALITY, name, 0.7 + 0.01 * i)
        monkeypatch.setitem(MILLISECONDS, name, 20.0 + i)
    results = collect(score_rows(planners=names))
    return results, summarize(results)


@pytest.mark.parametrize("count", [1, 11, 40])
@pytest.mark.parametrize("spread", [0, 0.5])
def test_names_cover_no_other_and_stay_in_the_picture(count, spread):
    rng = random.Random(count)
    names = [f"planner number {i}" for i in range(count)]
    times = {name: 20 + 10 * rng.random() for name in names}
    scores = {name: Estimate(0.5 + spread * (rng.random() - 0.5), None) for name in names}
    picture = figures._latency_picture(names, times, scores, [look(i) for i in range(count)])
    canvas = FigureCanvasAgg(picture.figure)
    canvas.draw()
    texts = picture.axes.texts
    assert sorted(text.get_text() for text in texts) == sorted(names)
    boxes = [Text.get_window_extent(text) for text in texts]  # without the line to the point
    boxes.sort(key=lambda box: box.y0)
    right = picture.axes.get_window_extent().x1
    for i, box in enumerate(boxes):
        assert box.x0 > right and box.x1 <= picture.figure.bbox.x1
        assert box.y0 >= 0 and box.y1 <= picture.figure.bbox.y1
        assert i == 0 or box.y0 >= boxes[i - 1].y1 - 2


def test_a_picture_is_in_the_colors_of_the_page_and_its_text_is_text():
    picture = Picture(400, 300, "steps $a$ & <b>", "return")
    picture.line([0, 1], [0, 1], "up & <up>", look(1))
    picture.dot(0, 1, "a dot", published_look(2))
    picture.rows(["a $row$", "b"], ["$1$", "2"])
    picture.names([(0, 1)], ["a $name$"], [look(1)["color"]])
    text = picture.render("Title & <t>", "words")
    assert (
        "var(--k1)" in text
        and "var(--m2)" in text
        and "var(--rule)" in text
        and not re.search("#0[abc]0", text)
    )
    assert ">steps $a$ &amp; &lt;b&gt;</text>" in text and "system-ui" in text and "DejaVu" not in text
    for told in ("a $row$", "$1$", "a $name$"):
        assert f">{told}</text>" in text
    assert "<title>up &amp; &lt;up&gt;</title>" in text and "Title &amp; &lt;t&gt;" in text
    again = Picture(400, 300, "steps").render("again", "words")
    assert not set(re.findall(r' id="([^"]+)"', text)) & set(re.findall(r' id="([^"]+)"', again))
    for found in re.findall(r'(?:xlink:href="|url\()#([^")]+)', text):
        assert f'id="{found}"' in text
    assert "var(--k1)" in swatch(look(1)) and "dash" not in swatch(look(1)) and "dash" in swatch(look(9))


def test_matplotlib_waits_for_the_first_picture():
    """It is imported in functions only: most commands draw nothing."""
    sources = [path.read_text() for path in (Path(__file__).parent.parent / "dreammpc").rglob("*.py")]
    assert sum("from matplotlib" in source for source in sources) == 1
    assert not [source for source in sources if re.search(r"^(from|import) matplotlib", source, re.M)]


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
    assert "planner_00:" in picture and "planner_02:" in picture and "planner_01" not in picture
    assert "inf" not in picture and "nan" not in picture.replace("planner", "")
    assert "Without a time that can be drawn: planner_01." in figure.caption
    for runs in results.runs.values():
        for run in runs:
            run.ms_per_action = wrong
    assert figures.latency(results, summary).pictures == []


def test_many_methods_have_no_bands_and_no_bars(monkeypatch):
    few, many = scores_of(5, monkeypatch), scores_of(11, monkeypatch)
    for make, mark in ((figures.profiles, "opacity: 0.13"), (figures.latency, "stroke-opacity: 0.5")):
        assert make(*few).pictures[0][1].count(mark) == 5
        assert make(*many).pictures[0][1].count(mark) == 0
        assert "left out for more than 5" in make(*many).caption
        assert "left out" not in make(*few).caption
    picture = figures.latency(*many).pictures[0][1]
    assert all(f">planner_{i:02}</text>" in picture for i in range(11))


def test_evaluations_at_0_lie_above_the_axis(monkeypatch):
    drawn = []
    monkeypatch.setattr(Picture, "render", lambda picture, *words: drawn.append(picture.axes) or "")
    steps, returns = np.array([1e4, 2e4]), np.array([0.0, 0.0])
    curve = Curve("a", "walk", 1, "tdmpc2 nano, policy", steps, returns, 1.0, False, {})
    figures.curves([curve], {})
    low, high = drawn[0].get_ylim()
    assert low < -0.02 * (high - low) < 0 and drawn[0].get_xlim()[0] == 0


def test_updates_on_recorded_data_are_drawn_below_0(monkeypatch):
    """A training on data alone counts them down to 0, and may be looked at before that."""
    drawn = []
    monkeypatch.setattr(Picture, "render", lambda picture, *words: drawn.append(picture.axes) or "")
    published = {"walk": [Reference("theirs", np.array([0.0, 1e4]), np.array([1.0, 2.0]))]}
    for steps in ([-800.0, -400.0, 0.0], [-800.0, -400.0], [-800.0, 0.0, 2e4]):
        curve = Curve(
            "a", "walk", 1, "tdmpc2 nano, policy", np.array(steps), np.ones(len(steps)), 1, False, {}
        )
        for references in ({}, published):
            figure = figures.curves([curve], references)
            low, high = drawn[-1].get_xlim()
            assert low == -0.8 and high >= steps[-1] / 1000
            assert "Steps below 0 are updates on recorded data." in figure.caption
    _, ((*_, last, value, ratio),) = figures.curve_table({"walk": [curve]}, published)
    assert (last, value, ratio) == ("1", "", "")  # after the end of what is published
    before = Curve("a", "walk", 1, "tdmpc2 nano, policy", np.array([-800.0]), np.ones(1), 1, False, {})
    _, ((*_, last, value, ratio),) = figures.curve_table({"walk": [before]}, published)
    assert (last, value, ratio) == ("1", "", "")  # before its first point
    after = Curve("a", "walk", 1, "tdmpc2 nano, policy", np.array([1e4]), np.ones(1), 1, False, {})
    assert "recorded data" not in figures.curves([after], {}).caption


def test_published_curves_differ_in_color_and_dash():
    looks = [published_look(i) for i in range(16)]
    assert len({str(each) for each in looks}) >= 12
    assert (
        len({each["color"] for each in looks[:4]}) == 4
        and len({str(each["linestyle"]) for each in looks[:3]}) == 3
    )
    assert all(each["linestyle"] != "-" for each in looks)

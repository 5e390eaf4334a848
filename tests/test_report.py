"""The report: a page that stands by itself, tells its figures in words, and names mistakes in one line."""

import base64
import io
import json
import re
import weakref
from html.parser import HTMLParser

import numpy as np
import pytest
from score_rows import score_rows

from dreammpc.cli import parser as cli
from dreammpc.evaluation.results import collect
from dreammpc.evaluation.rows import write_rows
from dreammpc.evaluation.summary import summarize
from dreammpc.interfaces import UsageError
from dreammpc.report import figures, write_report
from dreammpc.report.films import moments, names
from dreammpc.report.inputs import Reference, read, read_run
from dreammpc.report.page import curve_notes

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags with their attributes, and visible text; raises on tags that do not close."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def make_run(
    folder, task="walker-walk", seed=1, returns=(100.0, 300.0), final=500.0, batch_size=128, obs="state"
):
    """A run folder with evaluations every 10,000 steps, and the comparison at its end."""
    folder.mkdir()
    lines = [
        {"env_steps": 10_000 * (i + 1), "wall_s": 360.0 * (i + 1), "eval/return": value}
        for i, value in enumerate(returns)
    ]
    end = 10_000 * (len(returns) + 1)
    lines.append({"env_steps": end, "wall_s": 3600.0, "final/dream_mpc": final, "final/policy": 1.0})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    params = {
        "task": task,
        "seed": seed,
        "planner": {"name": "dream_mpc"},
        "eval_planner": [],
        "algorithm": {"name": "tdmpc2", "batch_size": batch_size},
        "model": {"name": "nano"},
        "env": {"obs": obs},
    }
    (folder / "params.json").write_text(json.dumps(params))
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> tuple[str, Page]:
    """A report of everything."""
    from dreammpc.tracking import write_video

    folder = tmp_path_factory.mktemp("report")
    runs = [make_run(folder / f"run{seed}", seed=seed, final=400.0 + 100 * seed) for seed in (1, 2)]
    write_rows(score_rows(), folder / "scores.csv")
    film = np.stack([np.full((32, 64, 3), 10 * i, np.uint8) for i in range(21)])
    write_video(folder / "both.mp4", film, fps=20)
    curve = {"metric": "reward", "env_steps": [0, 100_000], "mean": [0, 1000], "std": [0, 50], "seeds": 3}
    known = {"tdmpc2": {"walker-walk": curve}, "other@elsewhere": {"walker-walk": curve}}
    (folder / "published.json").write_text(json.dumps(known))
    paths = [*runs, folder / "scores.csv", folder / "both.mp4"]
    write_report(paths, folder / "out/report.html", folder / "published.json", title="Mine & <yours>")
    text = (folder / "out/report.html").read_text()
    assert [path.name for path in (folder / "out").iterdir()] == ["report.html"]
    return text, Page(text)


def test_the_page_stands_by_itself(page):
    text, parsed = page
    assert not {"script", "link", "iframe"} & {tag for tag, _ in parsed.tags}
    for _, attributes in parsed.tags:
        assert str(attributes.get("src", "data:")).startswith("data:") and "href" not in attributes
    assert "url(" not in text.replace("url(#", "") and "@import" not in text
    assert "Mine &amp; &lt;yours&gt;" in text
    for query in ("prefers-color-scheme: dark", "@media print", "max-width"):
        assert query in text


def test_every_picture_has_its_words(page):
    text, parsed = page
    names = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(names) == len(set(names))
    pictures = [attributes for tag, attributes in parsed.tags if tag == "svg" and "role" in attributes]
    assert len(pictures) == 4 + 1 + 1 + 2 + 1  # aggregates, profiles, latency, comparisons, curves
    for attributes in pictures:
        assert set(attributes["aria-labelledby"].split()) <= set(names)
    assert all(attributes.get("alt") for tag, attributes in parsed.tags if tag == "img")
    descriptions = re.findall(r"<desc[^>]*>([^<]*)</desc>", text)
    iqm = summarize(collect(score_rows())).aggregates["dream_mpc"]["IQM"]
    assert iqm.interval is not None and f"dream_mpc {iqm.text(3)}" in descriptions[0]
    assert "2 trainings, the last evaluations at 550 in the mean" in descriptions[-1]


def test_curves_against_what_is_published(page):
    _, parsed = page
    words = " ".join(" ".join(parsed.text).split())
    # Seed 2 ends at 600 after 30,000 steps, where the straight line of the reference is at 300.
    assert "walker-walk tdmpc2 nano, dream_mpc 2 30,000 1.00 600 300 2.00" in words
    assert "other@elsewhere" not in words


def test_the_last_comparison_of_a_run_is_its_last_evaluation(tmp_path):
    (curve,) = read_run(make_run(tmp_path / "run"))
    assert curve.env_steps.tolist() == [10_000, 20_000, 30_000]
    assert curve.returns.tolist() == [100.0, 300.0, 500.0]
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"env_steps": 40000, "ev')  # a training that is being written
    assert len(read_run(tmp_path / "run")[0].returns) == 3


def test_references_begin_and_end_where_they_do():
    reference = Reference("a", np.array([0, 100]), np.array([10.0, 30.0]))
    assert reference.at(50) == 20 and reference.at(100) == 30 and np.isnan(reference.at(101))
    assert reference.at(0) == 10 and np.isnan(reference.at(-1))


def test_frames_of_a_video(page):
    from PIL import Image

    text, parsed = page
    data = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    images = [Image.open(io.BytesIO(base64.b64decode(each))) for each in data]
    assert [image.size for image in images] == [(320, 160)] * 6
    shades = [image.getpixel((160, 80))[0] for image in images]
    assert shades == pytest.approx([0, 40, 80, 120, 160, 200], abs=8)
    assert "6 moments of an episode each, from its start, left" in " ".join(parsed.text)


def test_a_video_is_never_held_whole(tmp_path, monkeypatch):
    """Of a long one no more frames than are shown, and the one or two that a reader is at."""
    import imageio.v3 as iio

    made, held = [], []

    def frames(path):
        for shade in range(101):
            frame = np.full((16, 32, 3), shade, np.uint8)
            made.append(weakref.ref(frame))
            held.append(sum(each() is not None for each in made))
            yield frame

    monkeypatch.setattr(iio, "imiter", frames)
    assert [width for width, _ in moments(tmp_path / "a.mp4")] == [320] * 6
    assert max(held) <= 6 + 2


def test_headings_tell_videos_apart(tmp_path):
    curves = [read_run(make_run(tmp_path / f"run{seed}", seed=seed))[0] for seed in (1, 2)]
    videos = [tmp_path / name for name in ("run1/walk.mp4", "run2/walk.mp4", "a/play.mp4", "b/play.mp4")]
    expected = ["walk, seed 1 (run1)", "walk, seed 2 (run2)", "play (a)", "play (b)", "alone"]
    assert names([*videos, tmp_path / "alone.gif"], curves) == expected
    alike = [tmp_path / name for name in ("x/a/play.mp4", "y/a/play.mp4")]
    assert names(alike, []) == [f"play ({path.parent})" for path in alike]


def test_one_training_seed_and_other_starts_are_said(tmp_path):
    write_rows(score_rows(train_seeds=[1]), tmp_path / "one.json")
    run = make_run(tmp_path / "run")
    write_report([tmp_path / "one.json", run], tmp_path / "one.html")
    words = " ".join(Page((tmp_path / "one.html").read_text()).text)
    assert "cup-catch: one training seed only" in words
    assert "Learning curves of walker-walk: one training seed only." in words
    assert "no intervals can be given" in words and "[" not in words


def test_words_are_explained_and_inputs_are_named(page):
    _, parsed = page
    words = " ".join(" ".join(parsed.text).split())
    for start in ("A planner chooses", "“policy” is", "Greedy: ", "Model steps: "):
        assert start in words[:800], start
    for name in ("run1 (walker-walk, seed 1)", "run2 (walker-walk, seed 2)", "published.json"):
        assert name in words[words.index("Run folders: ") :], name
    assert "optimality gap (lower is better)" in words


def test_published_curves_without_runs_are_said(tmp_path):
    write_rows(score_rows(), tmp_path / "scores.csv")
    (tmp_path / "published.json").write_text("{}")
    write_report([tmp_path / "scores.csv"], tmp_path / "out.html", tmp_path / "published.json")
    words = " ".join(Page((tmp_path / "out.html").read_text()).text)
    assert "published.json: " in words
    assert "Published curves:" not in words


def test_runs_are_found_in_folders_and_count_once(tmp_path):
    (tmp_path / "sweep/walker-walk").mkdir(parents=True)
    first = make_run(tmp_path / "sweep/walker-walk/seed1")
    make_run(tmp_path / "sweep/walker-walk/seed2", seed=2)
    (first / "checkpoints").mkdir()
    found = read([tmp_path / "sweep", first, tmp_path / "sweep/walker-walk"]).curves
    assert [curve.seed for curve in found] == [1, 2]


def test_runs_without_evaluations_are_said(tmp_path):
    for name in ("one", "two", "three"):
        make_run(tmp_path / name)
    for name in ("two", "three"):
        (tmp_path / name / "metrics.jsonl").write_text(
            '{"env_steps": 10, "wall_s": 1.0, "loss/value": 2.0}\n'
        )
    write_report(tmp_path, tmp_path / "out.html")
    words = " ".join(Page((tmp_path / "out.html").read_text()).text)
    assert f"Without evaluations: {tmp_path / 'three'}, {tmp_path / 'two'}." in words
    write_report(tmp_path / "one", tmp_path / "out.html")
    assert "Without evaluations" not in (tmp_path / "out.html").read_text()


def test_runs_from_pixels_and_from_states_have_their_own_published_curves(tmp_path):
    runs = [
        make_run(tmp_path / "walk"),
        make_run(tmp_path / "walk-pixels", seed=2, obs="pixels"),
        make_run(tmp_path / "catch", task="cup-catch"),
        make_run(tmp_path / "swing", task="pendulum-swing", obs="pixels"),
        make_run(tmp_path / "stand", task="walker-stand"),
        make_run(tmp_path / "stand-pixels", task="walker-stand", obs="pixels"),
    ]
    curve = {"metric": "reward", "env_steps": [0, 100_000], "mean": [0, 1000], "std": [0, 50]}
    tasks = ("walker-walk", "cup-catch", "pendulum-swing")
    known = {"a": dict.fromkeys((*tasks, "walker-stand"), curve), "a_pixels": dict.fromkeys(tasks, curve)}
    (tmp_path / "published.json").write_text(json.dumps(known))
    inputs = read(runs, tmp_path / "published.json")
    assert {task: [ref.name for ref in refs] for task, refs in inputs.references.items()} == {
        "walker-walk": ["a", "a_pixels"],
        "cup-catch": ["a"],
        "pendulum-swing": ["a_pixels"],
        "walker-stand": ["a"],
    }
    (note,) = [note for note in curve_notes(inputs) if "reference" in note]
    assert note.startswith("walker-stand from pixels: ") and "returns" in note
    heads, rows = figures.curves(inputs.curves, inputs.references).table
    shown = {(row[0], row[1]): row[6:] for row in rows}
    assert heads[6:] == ["a", "ratio", "a_pixels", "ratio"]
    assert shown["walker-walk", "tdmpc2 nano, dream_mpc"] == ["300", "1.67", "", ""]
    assert shown["walker-walk", "tdmpc2 nano from pixels, dream_mpc"] == ["", "", "300", "1.67"]


def test_success_has_curves_of_its_own_beside_what_is_published(tmp_path):
    """By the name of a task with dashes or with underscores."""
    folder = make_run(tmp_path / "reach", task="mw-reach-wall")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines[0]["eval/success"], lines[1]["eval/success"] = 0.25, 0.5
    lines[2]["final_success/dream_mpc"] = 0.75
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    params = json.loads((folder / "params.json").read_text()) | {"variant": "v3"}
    (folder / "params.json").write_text(json.dumps(params))
    curve = {"metric": "success", "env_steps": [0, 100_000], "mean": [0.0, 1.0], "std": [0.1, 0.1]}
    (tmp_path / "published.json").write_text(json.dumps({"theirs": {"mw-reach_wall": curve}}))
    inputs = read(folder, tmp_path / "published.json")
    titles = [curve.title for curve in inputs.curves]
    assert titles == ["mw-reach-wall (v3)", "mw-reach-wall (v3), success"]
    assert inputs.curves[1].returns.tolist() == [0.25, 0.5, 0.75]
    figure = figures.curves(inputs.curves, inputs.references)
    assert [name for name, _ in figure.pictures] == titles
    _, rows = figure.table
    assert rows[1][-3:] == ["0.75", "0.30", "2.50"] and rows[0][-3:] == ["500", "", ""]
    (note,) = [note for note in curve_notes(inputs) if "reference" in note]
    assert note.startswith("mw-reach-wall: ") and "returns" in note


def test_trainings_that_differ_are_said(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=2, batch_size=256)]
    write_report(runs, tmp_path / "two.html")
    words = " ".join(Page((tmp_path / "two.html").read_text()).text)
    assert "walker-walk, tdmpc2 nano, dream_mpc: " in words and "differ in algorithm.batch_size" in words
    assert "one training seed only" not in words


def test_rows_of_several_revisions_name_each_version_once(tmp_path):
    rows = score_rows()
    for row, revision in zip(rows, ["abc", "def"] * len(rows), strict=False):
        row["versions"] = {"git": revision, "torch": "2.13.0"}
    write_rows(rows, tmp_path / "scores.csv")
    write_report([tmp_path / "scores.csv"], tmp_path / "page.html")
    assert "Versions: git abc and def, torch 2.13.0." in (tmp_path / "page.html").read_text()


def test_tables_alone(tmp_path):
    write_rows(score_rows(), tmp_path / "scores.csv")
    write_report([tmp_path / "scores.csv"], tmp_path / "scores.md")
    assert (tmp_path / "scores.md").read_text().count("\n| mppi ") == 1
    with pytest.raises(UsageError, match="tables are made of scores"):
        write_report([make_run(tmp_path / "run")], tmp_path / "runs.md")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lost"], ["lost does not exist"]),
        (["empty"], ["empty is no run folder", "metrics.jsonl"]),
        (["run/checkpoints"], ["checkpoints is no run folder", "metrics.jsonl; ", "/run is one"]),
        (["notes.txt"], ["notes.txt", "run folder"]),
        (["bad"], ["bad", "after 20000 environment steps is not a number"]),
        (["torn"], ["torn is damaged"]),
        (["scores.csv", "-o", "report.pdf"], ["report.pdf", ".html or .md"]),
        (["scores.csv", "mode.csv"], ["several modes", "greedy", "noise_scale=1"]),
        (["scores.csv", "-o", "t.md", "--reference", "nan.json"], ["nan.json", "need a page (.html)"]),
        (["run", "--reference", "nan.json"], ["nan.json: theirs, walker-walk: mean must be finite"]),
        (["run", "--reference", "back.json"], ["env_steps must increase"]),
        (["run", "--reference", "no-std.json"], ["ci95_low is missing"]),
        (["run", "--reference", "short.json"], ["std must be finite numbers, one for each of env_steps"]),
        (["run", "--reference", "."], [". is a folder"]),
        (["run", "--reference", "old.html", "-o", "old.html"], ["old.html is what is read"]),
        (["run", "--reference", "lost.json"], ["lost.json does not exist"]),
        (["run", "--reference", "scores.csv"], ["scores.csv is damaged"]),
        (["nan.csv"], ["nan.csv, row 1", "return is nan"]),
        (["film.mp4"], ["film.mp4 cannot be read"]),
    ],
)
def test_mistakes_are_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "run")
    make_run(tmp_path / "bad", returns=(1.0, None))
    make_run(tmp_path / "torn")
    (tmp_path / "torn/params.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run/checkpoints").mkdir()
    good = {"metric": "reward", "env_steps": [0, 10], "mean": [1.0, 2.0], "std": [0.0, 0.0]}
    lacks = {key: value for key, value in good.items() if key != "std"}
    for name, curve in {
        "nan": {**good, "mean": [1.0, float("nan")]},
        "back": {**good, "env_steps": [10, 0]},
        "no-std": lacks,
        "short": {**good, "std": [0.0]},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"theirs": {"walker-walk": curve}}))
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "old.html").write_text(json.dumps({"theirs": {"walker-walk": good}}))
    (tmp_path / "film.mp4").write_bytes(b"no film")
    rows = score_rows(tasks=["cup-catch"])
    write_rows(rows, tmp_path / "scores.csv")
    write_rows([{**rows[0], "return": float("nan")}], tmp_path / "nan.csv")
    write_rows(score_rows(tasks=["walker-walk"], mode="noise_scale=1"), tmp_path / "mode.csv")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", *arguments])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and all(word in line for word in words), line
    assert sorted(tmp_path.rglob("*")) == before, "nothing may be left behind"

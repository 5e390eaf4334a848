"""Tidy rows: what a file says of an episode comes back as it was, and what is wrong is one clear line."""

import csv
import json
import math

import pytest

from dreammpc.evaluation import Episodes
from dreammpc.evaluation.rows import COLUMNS, LATER, as_metrics, make_rows, read_rows, targets, write_rows
from dreammpc.interfaces import UsageError

COMMON = {
    "task": "walker-walk",
    "variant": None,
    "checkpoint": "runs/a, b/last.ckpt",
    "train_seed": 3,
    "algorithm": "tdmpc2",
    "model": "nano",
    "env_steps": 50_000,
    "planner": "mppi",
    "settings": {"horizon": 3, "max_ms": math.inf, "step_rule": "fixed", "terms": [{"reach": math.inf}]},
    "mode": "greedy",
    "action_repeat": 2,
    "versions": {"torch": "2.13.0"},
    "machine": 'a "fast" one, 2 cores',
}
EPISODES = Episodes(
    returns=[1.25, 812.0625],
    lengths=[500, 17],
    terminated=[False, True],
    ms_per_action=1.5,
    diagnostics={},
    successes=[None, 1.0],
    any_successes=[None, 1.0],
    scores=[0.25, 1.0],
    row_diagnostics=[{"gain": 0.5}, {"gain": -1.0, "objective_policy": 2.0}],
    device="a GPU",
    threads=3,
)


@pytest.fixture
def rows():
    return make_rows(EPISODES, [1000, 7], **COMMON)


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_there_and_back(rows, tmp_path, ending):
    write_rows(rows, tmp_path / f"scores.{ending}")
    again = read_rows([tmp_path / f"scores.{ending}"])
    named = {"max_ms": "inf", "terms": [{"reach": "inf"}]}
    expected = [{**row, "settings": {**row["settings"], **named}} for row in rows]
    assert again == expected
    assert [list(row)[: len(COLUMNS)] for row in again] == [list(COLUMNS)] * 2
    assert again[1]["episode_seed"] == 7 and again[1]["diagnostics.objective_policy"] == 2.0
    assert again[0]["success"] is None and "diagnostics.objective_policy" not in again[0]
    assert not list(tmp_path.glob(".*")), "the draft is gone"


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_files_from_before_a_column_are_read(rows, tmp_path, ending):
    assert (rows[0]["device"], rows[0]["threads"]) == ("a GPU", 3)
    older = [{name: value for name, value in row.items() if name not in LATER} for row in rows]
    path = tmp_path / f"scores.{ending}"
    write_rows(older, path)
    if ending == "csv":
        path.write_text(path.read_text().replace(",device,threads", "").replace('cores",,,', 'cores",'))
    read = read_rows(path)
    assert [(row["device"], row["threads"]) for row in read] == [(None, None)] * 2
    write_rows(read, path)
    assert read_rows(path) == read


@pytest.mark.parametrize(
    ("task", "success", "score"),
    [
        ("walker-walk", None, 0.8),
        ("cheetah-jump", None, 0.8),  # an addition to the control suite
        ("gym-Hopper-v5", None, None),
        ("gym-Reach-v0", 1.0, 1.0),
        ("lqr-lqr-2-1", None, None),
        ("h1-run", None, None),
        ("push-home", None, None),  # of a package that is not installed here
    ],
)
def test_files_from_before_scores_are_scored_by_the_suites_full_return_alone(
    rows, tmp_path, task, success, score
):
    """Wherever the return lies: a return of a plug-in's task may be between 0 and 1000, too."""
    row = {**rows[0], "task": task, "success": success, "return": 800.0}
    for name in ("variant", "any_success", "score"):
        del row[name]
    (tmp_path / "old.json").write_text(json.dumps({"format": 1, "rows": [row]}))
    (read,) = read_rows([tmp_path / "old.json"])
    assert (read["score"], read["any_success"], read["variant"]) == (score, None, None)


def test_the_csv_is_a_plain_table(rows, tmp_path):
    write_rows(rows, tmp_path / "scores.csv")
    lines = list(csv.reader((tmp_path / "scores.csv").open()))
    assert len(lines) == 3 and len({len(line) for line in lines}) == 1
    assert json.loads(lines[1][lines[0].index("settings")])["step_rule"] == "fixed"


def test_an_output_without_an_ending_is_both_files():
    assert [path.name for path in targets("a/scores")] == ["scores.csv", "scores.json"]
    assert [path.name for path in targets("a/scores.csv")] == ["scores.csv"]
    with pytest.raises(UsageError, match=r"scores\.txt.*\.csv or \.json"):
        targets("scores.txt")


def spoil(row, **changes):
    return [{**row, **changes}]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"return": math.nan}, ["row 1", "mppi on walker-walk", "seed 1000", "return", "nan"]),
        ({"success": math.inf}, ["success", "inf"]),
        ({"success": 2.0}, ["success is 2.0", "at least 0 and at most 1"]),
        ({"ms_per_action": math.nan}, ["ms_per_action is nan"]),
        ({"ms_per_action": -5.0}, ["ms_per_action is -5.0", "at least 0"]),
        ({"length": -5}, ["length is -5", "at least 1"]),
        ({"env_steps": -3}, ["env_steps is -3", "at least 0"]),
        ({"action_repeat": 0}, ["action_repeat is 0", "at least 1"]),
        ({"batch": 0}, ["batch is 0", "at least 1"]),
        ({"episode_seed": -1}, ["episode_seed is -1", "at least 0"]),
        ({"diagnostics.gain": math.nan}, ["diagnostics.gain is nan", "expected a finite number"]),
        ({"task": "walker\0walk"}, ["task must be a str, got 'walker\\x00walk'"]),
        ({"length": "long"}, ["length", "int", "'long'"]),
        ({"terminated": "perhaps"}, ["terminated", "bool", "'perhaps'"]),
        ({"planner": ""}, ["planner", "empty"]),
        ({"settings": "[1]"}, ["settings", "dict", "[1]"]),
    ],
)
def test_a_bad_cell_is_named(rows, tmp_path, change, words):
    write_rows(spoil(rows[0], **change), tmp_path / "scores.csv")
    with pytest.raises(UsageError) as error:
        read_rows([tmp_path / "scores.csv"])
    for word in ["scores.csv", *words]:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_cannot_be_used(rows, tmp_path):
    def refusal(name: str, content: str | None = None) -> str:
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(UsageError) as error:
            read_rows([tmp_path / name])
        return str(error.value)

    assert "lost.csv does not exist" in refusal("lost.csv")
    assert ".csv or .json" in refusal("run.txt", "")
    assert "damaged" in refusal("torn.json", '{"format": 1, "rows": [')
    assert "damaged" in refusal("other.json", '{"planners": {}}')
    assert "damaged" in refusal("numbers.json", '{"format": 1, "rows": [1]}')
    (tmp_path / "wide.csv").write_text("task,planner\n" * 1000, encoding="utf-16")
    assert "damaged" in refusal("wide.csv") and len(refusal("wide.csv")) < 400
    assert "format 99" in refusal("newer.json", '{"format": 99, "rows": []}')
    write_rows(rows, tmp_path / "wide.csv")
    assert "wide.csv, row 3 has more cells than there are columns" in refusal(
        "wide.csv", (tmp_path / "wide.csv").read_text() + "1," * 99 + "\n"
    )
    assert "no rows" in refusal("empty.csv", "task,planner\n")
    assert "'checkpoint' is missing" in refusal("foreign.csv", "task,planner\nwalker-walk,mppi\n")
    assert "found task;planner" in refusal("semicolons.csv", "task;planner\nwalker-walk;mppi\n")
    write_rows(rows, tmp_path / "a.csv")
    write_rows(rows[:1], tmp_path / "b.json")
    alone = read_rows([tmp_path / "a.csv"])
    (tmp_path / "marked.csv").write_text((tmp_path / "a.csv").read_text(), encoding="utf-8-sig")
    assert read_rows([tmp_path / "marked.csv"]) == alone
    assert read_rows([tmp_path / "a.csv", tmp_path / "b.json"]) == alone  # the same return: counted once
    write_rows([{**rows[0], "return": -1.0}], tmp_path / "b.json")
    twice = r"b\.json, row 1 and, with another return, in .*a\.csv: episode seed 1000 .* twice"
    with pytest.raises(UsageError, match=twice):
        read_rows([tmp_path / "a.csv", tmp_path / "b.json"])


def test_metrics_of_agents_that_share_task_and_seed_are_kept_apart(rows):
    first, second = ({**rows[0], "checkpoint": f"agent:a/{name}"} for name in ("tdmpc2", "bmpc"))
    second["return"] = 2.0
    (episode,), means = as_metrics([first, second])
    assert episode["walker-walk/seed3/agent-a/tdmpc2/mppi/return"] == 1.25
    assert means["mean/walker-walk/seed3/agent-a/bmpc/mppi/return"] == 2.0
    (alone,), _ = as_metrics([first])
    assert alone["walker-walk/seed3/mppi/return"] == 1.25

"""From rows to tables: what is averaged over what, what is refused, and what has to be said."""

import numpy as np
import pytest
from score_rows import score_rows

from dreammpc.evaluation.aggregate import Interval
from dreammpc.evaluation.results import collect, common
from dreammpc.evaluation.rows import read_rows, write_rows
from dreammpc.evaluation.summary import Estimate, markdown, summarize, task_estimate, task_table
from dreammpc.interfaces import UsageError


def test_a_run_is_a_training_seed_and_its_score_the_mean_over_episodes():
    rows = score_rows()
    results = collect(rows)
    assert results.methods == ["policy", "mppi", "dream_mpc"] and results.notes == []
    own = [
        r["return"] for r in rows if (r["planner"], r["task"], r["train_seed"]) == ("mppi", "walker-walk", 2)
    ]
    run = results.runs["mppi", "walker-walk"][1]
    assert run.seed == 2 and run.score == pytest.approx(np.mean(own) / 1000)
    tasks, scores = common(results)
    assert tasks == ["cup-catch", "walker-walk"]
    assert [len(runs) for runs in scores["mppi"]] == [3, 3]
    estimate = task_estimate(results, "mppi", "walker-walk")
    assert estimate.value == pytest.approx(results.returns("mppi", "walker-walk").mean())
    assert estimate.interval.low < estimate.value < estimate.interval.high


def test_the_score_is_what_the_rows_say_wherever_returns_lie():
    rows = [{**row, "score": float(row["episode"] == 0), "return": -5000.0} for row in score_rows()]
    results = collect(rows)
    assert results.runs["mppi", "cup-catch"][0].score == 0.25 and results.notes == []
    assert summarize(results).aggregates["mppi"]["mean"].value == 0.25


def test_a_task_of_which_some_runs_have_no_score_is_left_out_and_said():
    rows = score_rows()
    for row in rows:
        if row["task"] == "cup-catch" and row["train_seed"] == 1:
            row["score"] = None
    results = collect(rows)
    assert common(results)[0] == ["walker-walk"]
    (note,) = results.notes
    assert note.startswith("cup-catch: its environment names no full return") and "leave it out" in note


def test_success_at_the_last_step_and_at_any_is_a_table_of_its_own():
    rows = score_rows(tasks=["mw-reach", "walker-walk"], planners=["mppi"], train_seeds=(1, 2))
    assert "Success" not in markdown(collect(rows), summarize(collect(rows)))
    for row in rows:
        if row["task"] == "mw-reach":
            last = float(row["episode"] == 0)
            row |= {"success": last, "any_success": float(row["episode"] < 2), "score": last, "variant": "v3"}
    text = markdown(results := collect(rows), summarize(results))
    assert "Success at the last step (at any step):" in text
    assert "| mw-reach (v3) | 0.25 [0.25, 0.25] (0.50 [0.50, 0.50]) |" in text
    assert "Normalized scores over mw-reach (v3), walker-walk:" in text
    assert summarize(results).aggregates["mppi"]["mean"].value < 0.5  # of 0.25 and 0.6 or so
    with pytest.raises(UsageError, match=r"mw-reach: several versions of its environment, v3 and v2"):
        collect(rows + [{**row, "variant": "v2", "train_seed": 3} for row in rows])


def test_planners_on_the_same_agents_are_compared_in_pairs():
    summary = summarize(collect(score_rows()))
    told = [(c.method, c.base) for c in summary.comparisons]
    assert told == [("policy", "mppi"), ("dream_mpc", "mppi"), ("dream_mpc", "policy")]
    better = summary.comparisons[1]
    # 0.1 apart, and the agents' luck, 0.06, cancels.
    assert 0.08 < better.difference.interval.low < 0.1 < better.difference.interval.high < 0.12
    assert better.ratio.value == pytest.approx(
        summary.aggregates["dream_mpc"]["IQM"].value / summary.aggregates["mppi"]["IQM"].value
    )
    for comparison in summary.comparisons:
        for value, (least, most) in (comparison.difference, comparison.ratio, comparison.probability):
            assert least <= value <= most
    low, high = summary.aggregates["mppi"]["IQM"].interval
    assert high - low > 0.03


def test_methods_are_told_apart_by_what_differs():
    rows = score_rows(planners=["policy", "mppi"])
    rows += score_rows(planners=["mppi"], settings={"horizon": 5})
    assert collect(rows).methods == ["policy", "mppi horizon=3", "mppi horizon=5"]
    results = collect(score_rows() + score_rows(algorithm="bmpc"))
    assert results.methods[0] == "policy on tdmpc2 nano" and len(results.methods) == 6
    told = {(c.method, c.base) for c in summarize(results).comparisons}
    assert ("mppi on bmpc nano", "mppi on tdmpc2 nano") in told
    assert ("dream_mpc on bmpc nano", "mppi on tdmpc2 nano") not in told


def test_kinds_of_agents_are_compared_in_pairs():
    results = collect(
        score_rows(planners=["policy", "mppi"]) + score_rows(planners=["mppi"], algorithm="bmpc")
    )
    told = [(c.method, c.base) for c in summarize(results).comparisons]
    first = ("policy on tdmpc2 nano", "mppi on tdmpc2 nano")
    assert told == [first, ("mppi on bmpc nano", "mppi on tdmpc2 nano")]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (
            score_rows(planners=["policy"], mode="noise_scale=1") + score_rows(planners=["mppi"]),
            ["modes", "noise_scale=1", "greedy", "mppi"],
        ),
        (
            score_rows(planners=["policy"], episodes=2) + score_rows(planners=["mppi"]),
            ["2 starts", "4 starts", "policy", "mppi"],
        ),
        (
            score_rows() + score_rows(planners=["mppi"], checkpoint="runs/best.ckpt"),
            ["two checkpoints", "seed 1", "best.ckpt"],
        ),
        (
            score_rows(train_seeds=[1]) + score_rows(train_seeds=[2], action_repeat=4),
            ["action repeats", "2 and 4"],
        ),
    ],
    ids=["modes", "starts", "checkpoints", "action repeats"],
)
def test_what_cannot_be_compared_is_refused(rows, words):
    with pytest.raises(UsageError) as error:
        collect(rows)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_one_training_seed_has_no_interval_and_says_so():
    results = collect(score_rows(train_seeds=[1]))
    summary = summarize(results)
    assert summary.aggregates["mppi"]["IQM"].interval is None
    assert summary.comparisons[0].difference.interval is None and summary.profiles["mppi"][1] is None
    assert [note.partition(": ")[0] for note in results.notes] == ["cup-catch", "walker-walk"]
    assert all("one training seed only" in note for note in results.notes)
    text = markdown(results, summary)
    assert "[" not in text and "one training seed only" in text


def test_what_was_not_played_is_left_out_for_all_and_said():
    rows = score_rows(planners=["policy", "mppi"]) + score_rows(
        tasks=["cup-catch"], planners=["dream_mpc"], train_seeds=[1, 2]
    )
    results = collect(rows)
    tasks, scores = common(results)
    assert tasks == ["cup-catch"] and {len(runs[0]) for runs in scores.values()} == {2}
    text = markdown(results, summarize(results))
    left_out, fewer_seeds = results.notes
    assert left_out in text and "dream_mpc" in left_out and "walker-walk" in left_out
    assert fewer_seeds in text and "dream_mpc" in fewer_seeds and "cup-catch" in fewer_seeds
    assert "over cup-catch:" in text


def test_seeds_that_are_left_out_are_said_with_two_kinds_of_agents():
    rows = score_rows(planners=["policy", "mppi"], train_seeds=[4, 5], algorithm="bmpc")
    assert collect(score_rows() + rows).notes == []  # each kind has its own seeds
    rows += score_rows(planners=["policy", "mppi"]) + score_rows(planners=["dream_mpc"], train_seeds=[1, 2])
    results = collect(rows)
    assert [len(runs) for runs in common(results)[1]["mppi on tdmpc2 nano"]] == [2, 2]
    assert [note.partition(": ")[0] for note in results.notes] == ["cup-catch", "walker-walk"]
    assert all("dream_mpc on tdmpc2 nano" in note for note in results.notes)


def test_unknown_scales_other_machines_and_budgets_are_said():
    rows = score_rows(tasks=["cup-catch"]) + [
        {**row, "score": None} for row in score_rows(tasks=["pendulum-swing"], machine="another")
    ]
    rows[0] = {**rows[0], "env_steps": 40_000}
    results = collect(rows)
    assert common(results)[0] == ["cup-catch"]
    notes = " ".join(results.notes)
    assert "pendulum-swing: its environment names no full return" in notes and "several machines" in notes
    assert "cup-catch: agents of 40,000 to 50,000" in notes


def test_markdown_is_tables_of_equal_width():
    text = markdown(results := collect(score_rows()), summarize(results))
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == 3
    for table in tables:
        assert len({line.count("|") for line in table}) == 1
    assert [line.split("|")[1].strip() for line in tables[0][2:]] == [
        "cup-catch", "walker-walk", "ms per action (cpu, 1 thread)", "model steps per action",
    ]  # fmt: skip
    assert text.startswith("2 tasks, 3 training seeds each, 4 episodes per agent and planner, greedy.")


def test_times_say_what_they_are_of():
    rows = score_rows(device="NVIDIA H100", threads=8)
    assert task_table(collect(rows))[1][-2][0] == "ms per action (NVIDIA H100)"
    results = collect([*rows[:4], *({**row, "device": "cpu", "threads": 2} for row in rows[4:])])
    assert task_table(results)[1][-2][0] == "ms per action (NVIDIA H100 and cpu, 2 threads)"
    assert "several machines, devices" in " ".join(results.notes)
    older = [{**row, "device": None, "threads": None} for row in rows]
    assert task_table(collect(older))[1][-2][0] == "ms per action"


def test_no_task_in_common_and_unequal_numbers_of_episodes_are_said():
    rows = score_rows(tasks=["cup-catch"], planners=["mppi"], episodes=2)
    rows += score_rows(tasks=["walker-walk"], planners=["policy"], episodes=3)
    results = collect(rows)
    text = markdown(results, summarize(results))
    assert "2 to 3 episodes per agent and planner" in text
    assert "no aggregates" in text and "IQM" not in text


def test_a_ratio_to_nothing_is_left_empty():
    rows = [{**row, "return": 0.0, "score": 0.0} for row in score_rows(planners=["policy", "mppi"])]
    text = markdown(results := collect(rows), summarize(results))
    assert "| policy against mppi | +0.000 [+0.000, +0.000] | | 0.50 [0.50, 0.50] |" in " ".join(text.split())


def test_a_ratio_whose_base_may_be_nothing_has_no_interval():
    rows = score_rows(tasks=["cup-catch"], planners=["policy", "mppi"])
    for row in rows:
        row["score"] = 0.5 if row["train_seed"] == 1 or row["planner"] == "policy" else 0.0
    comparison = summarize(collect(rows)).comparisons[0]
    assert comparison.ratio.text(2) == "3.00"
    assert "[" in comparison.difference.text(2)
    assert Estimate(1.5, Interval(np.float64(1), np.float64(np.inf))).text(1) == "1.5"


def test_a_relative_and_an_absolute_path_are_one_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    near = score_rows(planners=["policy", "mppi"], train_seeds=[1], checkpoint="runs/last.ckpt")
    far = [
        {**row, "checkpoint": str(tmp_path / "runs/last.ckpt")} for row in near if row["planner"] == "policy"
    ]
    write_rows(near, "near.csv")
    write_rows(far, "far.csv")
    rows = read_rows(["near.csv", "far.csv"])
    assert len(rows) == len(near)  # what both have counts once
    far = [
        {**row, "checkpoint": str(tmp_path / "runs/last.ckpt")} for row in near if row["planner"] == "mppi"
    ]
    mixed = [row for row in near if row["planner"] == "policy"] + far
    assert collect(mixed).methods == ["policy", "mppi"]
    imported = collect([{**row, "train_seed": None} for row in mixed])
    assert not any("every training seed" in note for note in imported.notes)
    assert common(imported)[0] == ["cup-catch", "walker-walk"]


def test_rows_from_before_a_setting_count_as_played_with_its_default():
    """A planner's newer setting, off its default, is another method than the rows that never heard of it."""
    old, same = score_rows(planners=["dream_mpc"]), score_rows(planners=["dream_mpc"], train_seeds=(4,))
    new = score_rows(planners=["dream_mpc"])
    for row in same:
        row["settings"] = {**row["settings"], "within_policy": False, "terms": []}
    for row in new:
        row["settings"] = {**row["settings"], "within_policy": True, "terms": []}
    assert collect([*old, *same]).methods == ["dream_mpc"]
    found = collect([*old, *new]).methods
    assert found == ["dream_mpc within_policy=False", "dream_mpc within_policy=True"]

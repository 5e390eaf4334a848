"""BMPC as a user trains it: a run, its resume, evaluation, and one line for each mistake."""

from pathlib import Path

import pytest
import torch
from commands import TINY, logged, refused, run_here

from dreammpc.models import BMPCModel
from dreammpc.trained.loading import load_agent
from dreammpc.training import load_checkpoint

LAST = "run/checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A short training with reanalyze, collected by one planner and evaluated by two."""
    folder = tmp_path_factory.mktemp("bmpc")
    more = [
        "algorithm=bmpc",
        "algorithm.reanalyze_interval=3",
        "algorithm.reanalyze_slices=2",
        "algorithm.utd=0.5",
        "planner=dream_mpc",
        "eval_planner=policy,dream_mpc",
        "eval_planner.num_candidates=2",
        "evaluation.video=false",
        "tracking=none",
    ]
    said = run_here("train", *TINY, *more, cwd=folder)
    (folder / "said.txt").write_text(said.stdout + said.stderr)
    return folder


def test_the_policy_learns_only_after_the_seed_phase(run):
    updates = [line for line in logged(run / "run") if "loss/value" in line]
    learned = [line["env_steps"] for line in updates if "loss/policy" in line]
    assert updates[0]["env_steps"] == 3000 and min(learned) > 3000 and max(learned) == 6000
    assert any("reanalyze/moved" in line for line in updates)
    content = load_checkpoint(run / LAST)
    assert content["policy_updates"] == 75  # 150 of 300 agent steps, every second one
    assert content["dreammpc"]["config"]["model"]["num_heads"] == 2


def test_evaluation_during_training_is_by_its_own_planners(run):
    lines = [line for line in logged(run / "run") if "eval/return" in line]
    assert lines and all(line["planner/evaluations"] == 0 for line in lines)  # the policy comes first
    assert all(line["planner/dream_mpc/evaluations"] > 0 for line in lines)
    assert all("eval/dream_mpc/return" in line for line in lines)
    last = lines[-1]
    final = next(line for line in logged(run / "run") if "final/dream_mpc" in line)
    assert final["env_steps"] == last["env_steps"] == 6000
    assert final["final/dream_mpc"] == pytest.approx(last["eval/dream_mpc/return"])  # two candidates here too
    assert final["final/policy"] == pytest.approx(last["eval/return"])
    # What was just played stands in the final table and is not played again.
    said = (run / "said.txt").read_text()
    assert said.count("evaluating policy:   0%") == len(lines) and "| policy " in said


def test_the_trained_agent_is_loaded_and_evaluated(run):
    agent = load_agent(run / LAST, "mppi", num_samples=8, num_elites=4, num_policy=2)
    assert isinstance(agent.model, BMPCModel) and not agent.record
    result = run_here("evaluate", f"checkpoint={LAST}", "planner=policy", "episodes=1", cwd=run)
    assert "| policy " in result.stdout


def test_mistakes_are_one_line(run, monkeypatch, capsys):
    monkeypatch.chdir(run)
    small = ["trainer.compile=false", "folder=other"]
    line = refused("train", [f"resume={LAST}", "algorithm=tdmpc2"], monkeypatch, capsys)
    assert "algorithm bmpc, not tdmpc2" in line
    line = refused("train", ["algorithm=bmpc", "planner=policy", *small], monkeypatch, capsys)
    assert "Policy cannot be BMPC's expert" in line
    line = refused("train", ["algorithm=bmcp"], monkeypatch, capsys)
    assert "did you mean bmpc?" in line and "tdmpc2" in line
    line = refused("train", ["algorithm.name=bmpc"], monkeypatch, capsys)
    assert "use algorithm=bmpc" in line
    line = refused("train", ["algorithm.reanalyze_interval=5"], monkeypatch, capsys)
    assert "algorithm.reanalyze_interval" in line
    line = refused("train", ["algorithm=bmpc", "algorithm.reanalyze_slices=0"], monkeypatch, capsys)
    assert "reanalyze_slices must be at least 1" in line
    line = refused("train", ["eval_planner=mpi", *small], monkeypatch, capsys)
    assert "'mpi'" in line and "mppi" in line
    line = refused(
        "train", ["eval_planner=policy", "eval_planner.num_samples=3", *small], monkeypatch, capsys
    )
    assert "num_samples" in line
    assert not Path("other").exists()

    content = torch.load(LAST, weights_only=True)
    content["dreammpc"]["config"]["algorithm"]["name"] = "tdmpc2"
    torch.save(content, "mixed.ckpt")
    line = refused("evaluate", ["checkpoint=mixed.ckpt"], monkeypatch, capsys)
    assert "mixed.ckpt" in line and "not those of a TDMPC2Model" in line


def plans_of(run, checkpoint):
    """What the file of plans holds that a checkpoint names; the previous checkpoint's lies beside it."""
    name = checkpoint["dreammpc"]["resume"]["ranks"][0]["mutable"]
    return torch.load(run / "run/checkpoints/replay/rank0" / name, weights_only=True)


def test_resume_goes_on_with_the_renewed_plans(run):
    before = load_checkpoint(run / LAST)
    rows = sorted((run / "run/checkpoints/replay/rank0").glob("rows-*.pt"))
    assert all("expert/mean" not in torch.load(path, weights_only=True) for path in rows)
    plans = plans_of(run, before)
    assert set(plans) == {"expert/mean", "expert/std", "expert/value"}
    random = (plans["expert/mean"] == 0).all(1) & (plans["expert/std"] == 1).all(1)
    assert 0 < int(random.sum()) < 150  # of the 150 random rows some have been planned anew
    run_here("train", f"resume={LAST}", "steps=7000", "tracking=none", cwd=run)
    after = load_checkpoint(run / LAST)
    assert after["dreammpc"]["env_steps"] == 7000
    assert after["policy_updates"] == before["policy_updates"] + 25
    assert len(plans_of(run, after)["expert/mean"]) == 350

"""Trained agents: a run's checkpoint to weights and card, by name from Python and the command line."""

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict

from dreammpc import trained
from dreammpc.agent import Agent
from dreammpc.cli import parser as cli
from dreammpc.configuration import assembly
from dreammpc.configuration.recipe import compose
from dreammpc.evaluation.rows import read_rows
from dreammpc.interfaces import UsageError
from dreammpc.models import BMPCModel, TDMPC2Model
from dreammpc.planning import make_planner
from dreammpc.trained import agent_names, library, loading, locate, read_card
from dreammpc.trained.compare import compare
from dreammpc.trained.export import write_card
from dreammpc.training.checkpoint_format import DESCRIPTION, load_checkpoint
from dreammpc.training.files import save_atomically

WIDTHS = {"enc_dim": 32, "mlp_dim": 32, "latent_dim": 16, "num_heads": 2, "num_enc_layers": 2}


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """The folder of a training that ended after 3000 steps, as the recipe leaves it."""
    monkeypatch.setenv("DREAMMPC_AGENTS", str(tmp_path / "agents"))
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path / "secret" / "run")


def write_run(
    folder: Path, algorithm: str = "tdmpc2", seed: int = 7, spread: float = 0.05, obs: str = "state"
) -> Path:
    torch.manual_seed(0)
    width = 0 if obs == "pixels" else 5
    model = (BMPCModel if algorithm == "bmpc" else TDMPC2Model)(width, 1, 0.99, obs=obs, **WIDTHS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    settings = {
        "task": "cartpole-swingup",
        "seed": seed,
        "folder": str(folder),
        "replay": {"storage": "memory", "folder": "/secret"},
        "resume": None,
        "env": {"num_envs": 1, "action_repeat": 100},
        "model": {"name": "nano", **WIDTHS},
        "algorithm": {"name": algorithm},
        "planner": {"name": "dream_mpc", "horizon": 3},
        "trainer": {"threads": 1},
        "evaluation": {"episodes": 10, "seed": 1000},
        "tracking": {"kind": "mlflow", "uri": "http://user:word@secret"},
    }
    overrides = [f"folder={folder}", "tracking.uri=http://secret", f"seed={seed}", "planner.horizon=3"]
    facts = assembly.describe(
        "cartpole-swingup", model, settings, overrides, tracking_run="abc", format=1, env_steps=3000
    )
    weights = {f"agent.model.{key}": weight for key, weight in model.state_dict().items()}
    content = {
        "state_dict": {**weights, "value_scale": torch.ones(())},
        "optimizer_states": [{"momentum": torch.zeros(1000)}],
        DESCRIPTION: {**facts, "resume": {"ranks": []}, "score": 5.0},
    }
    save_atomically(content, folder / "checkpoints/last.ckpt")
    lines = [
        {"env_steps": 1000, "wall_s": 10.0, "eval/return": 100.0},
        {"env_steps": 2000, "wall_s": 20.0, "loss/value": 1.0},
        {"env_steps": 2000, "wall_s": 25.0, "eval/return": None, "nonfinite": {"eval/return": "nan"}},
        {"env_steps": 3000, "wall_s": 40.0, "eval/return": 300.0},
        {"env_steps": 3000, "wall_s": 99.0, "final/policy": 250.0, "final/dream_mpc": 300.0},
        {"env_steps": 4000, "wall_s": 120.0, "eval/return": 1.0},  # after the checkpoint
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    origin = {
        "cpu": "Slow, 2 cores",
        "version.torch": "2.13.0",
        "git.revision": "abc",
        "platform": "secret-4",
    }
    (folder / "origin.json").write_text(json.dumps(origin))
    return folder


def test_the_card_says_where_an_agent_comes_from(run, tmp_path):
    path = trained.export_agent(run / "checkpoints/last.ckpt", tmp_path / "agents")
    assert path == tmp_path / "agents/cartpole-swingup/tdmpc2-seed7.ckpt"
    card = trained.read_card(path)
    assert card["name"] == "cartpole-swingup/tdmpc2-seed7" and card["model"] == "nano"
    assert card["command"] == "lightning run train seed=7 planner.horizon=3"
    assert card["curve"] == [[1000, 100.0], [3000, 300.0]]
    assert card["seconds"] == 40.0  # without the comparison of planners afterwards
    assert card["evaluations"] == []  # the run's were played with a horizon of 3
    assert card["hardware"] == "Slow, 2 cores" and card["versions"] == {"torch": "2.13.0"}
    assert card["revision"] == "abc" and card["env_steps"] == 3000 and card["planner"] == "dream_mpc"
    assert card["bytes"] == path.stat().st_size < (run / "checkpoints/last.ckpt").stat().st_size / 2
    for file in (path, path.with_suffix(".json")):
        assert b"secret" not in file.read_bytes(), "folders, addresses and machines stay at home"
    assert sorted(p.name for p in path.parent.iterdir()) == ["tdmpc2-seed7.ckpt", "tdmpc2-seed7.json"]


def test_a_curve_is_that_of_one_planner(run, tmp_path):
    """Of the first `eval_planner`, also in the comparison that ends the training."""
    path = run / "checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    content[DESCRIPTION]["config"]["eval_planner"] = ["policy", "dream_mpc"]
    save_atomically(content, path)
    log = run / "metrics.jsonl"
    log.write_text(log.read_text().replace('"eval/return": 300.0', '"loss/value": 1.0'))
    card = trained.read_card(trained.export_agent(path, tmp_path / "agents"))
    assert card["curve"] == [[1000, 100.0], [3000, 250.0]] and card["planner"] == "dream_mpc"


def test_a_torn_line_takes_no_other_with_it(run, tmp_path):
    log = run / "metrics.jsonl"
    log.write_text(log.read_text() + '{"env_steps": 40')
    card = trained.read_card(trained.export_agent(run / "checkpoints/last.ckpt", tmp_path / "agents"))
    assert card["curve"] == [[1000, 100.0], [3000, 300.0]] and card["seconds"] == 40.0


def test_a_bad_card_hides_no_other(run, tmp_path, capsys):
    path = trained.export_agent(run / "checkpoints/last.ckpt", tmp_path / "agents")
    card = trained.read_card(path)
    row = {"planner": "policy", "return": 1.0, "episodes": 2, "dtype": "float16"}
    bad = {
        "empty": ({}, "'name' is missing; expected: name, model, env_steps"),
        "list": ([], "expected entries by name, got []"),
        "words": ({**card, "env_steps": "many"}, "env_steps must be int or null, got 'many'"),
        "row": ({**card, "evaluations": [{**row, "return": None}]}, "return must be int or float, got None"),
        "point": ({**card, "curve": [[1000, None]]}, "a point of its curve, got [1000, None]"),
        "large": ({**card, "curve": [[1000, 10**400]]}, "a point of its curve"),
        "nan": ({**card, "evaluations": [{**row, "return": float("nan")}]}, "return must be int or float"),
        "none": (None, "is missing or damaged"),
    }
    for name, (content, _) in bad.items():
        shutil.copy(path, path.with_stem(name))
        if content is not None:
            path.with_name(f"{name}.json").write_text(json.dumps(content))
    path.with_name("new.json").write_text(json.dumps({**card, "env_steps": None}))
    shutil.copy(path, path.with_stem("new"))
    cli.main(["agents"])
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if "  " in line)
    assert set(lines) == set(agent_names())
    for name, (_, message) in bad.items():
        told = lines[f"cartpole-swingup/{name}"]
        assert told.startswith("unusable: card ") and f"{name}.json" in told and message in told, told
        with pytest.raises(UsageError, match=f"{name}.json"):
            trained.read_card(path.with_stem(name))
    assert lines["cartpole-swingup/new"].startswith("nano, unknown env steps, ")
    assert lines["cartpole-swingup/tdmpc2-seed7"].startswith("nano, 3,000 env steps, ")
    assert trained.find_agent("cartpole-swingup").is_file()  # the best of those that can be read


def test_a_run_that_recorded_nothing_is_exported_and_its_card_says_so(run, tmp_path):
    (run / "metrics.jsonl").unlink()
    (run / "origin.json").unlink()
    card = trained.read_card(trained.export_agent(run / "checkpoints/last.ckpt", tmp_path, name=NAME))
    assert card["name"] == NAME and (card["curve"], card["evaluations"]) == ([], [])
    assert card["hardware"] is card["versions"] is card["seconds"] is None
    path = trained.export_agent(run / "checkpoints/last.ckpt", tmp_path, hardware="one H100", here=True)
    card = trained.read_card(path)
    assert card["hardware"] == "one H100" and card["versions"]["torch"] == torch.__version__


NAME = "cartpole-swingup/mine"


@pytest.mark.parametrize("algorithm", ["tdmpc2", "bmpc"])
@pytest.mark.parametrize(("planner", "most"), [("policy", 0.001), ("dream_mpc", 0.001), ("mppi", 0.15)])
def test_rounding_leaves_what_is_planned(planner, most, algorithm, tmp_path):
    """MPPI draws its action among 64 elites, so a small change of scores may choose its neighbor."""
    run = write_run(tmp_path / "run", algorithm)
    path = trained.export_agent(run / "checkpoints/last.ckpt", tmp_path)
    before, _ = loading.load_model(run / "checkpoints/last.ckpt")
    after, facts = loading.load_model(path)
    assert type(after) is type(before) and facts["env_steps"] == 3000
    assert all(weight.dtype == torch.float32 for weight in after.parameters())
    for target, value in zip(after.target_heads.parameters(), after.value_heads.parameters(), strict=True):
        assert torch.equal(target, value)
    torch.manual_seed(1)
    obs, plans = TensorDict({"observation": torch.randn(32, 5)}, [32]), []
    for model in (before, after):
        agent = Agent(model, make_planner(planner, 1))
        torch.manual_seed(3)
        plans.append(agent.step(obs, agent.initial_carry(32), torch.ones(32, 1, dtype=torch.bool))[0])
    actions, values = [plan.action for plan in plans], [plan.value for plan in plans]
    assert actions[0].std() > 0.03 and not torch.equal(*actions)
    assert (actions[0] - actions[1]).abs().max() < most
    assert (values[0] - values[1]).abs().max() <= 0.005 * values[0].abs().max()


def test_what_sixteen_bits_cannot_hold_is_refused(run, tmp_path):
    path = run / "checkpoints/last.ckpt"
    content = torch.load(path, weights_only=True)
    weight = content["state_dict"]["agent.model.reward.linears.0.weight"]
    weight[0, 0] = 1e6
    save_atomically(content, path)
    with pytest.raises(UsageError, match=r"reward\.linears\.0\.weight is too large for torch.float16"):
        trained.export_agent(path, tmp_path / "agents")
    assert not (tmp_path / "agents").exists()
    wide = trained.export_agent(path, tmp_path / "agents", "bfloat16")
    assert loading.load_model(wide)[0].reward.linears[0].weight[0, 0].item() == pytest.approx(1e6, rel=0.01)
    weight[0, 0] = torch.nan
    save_atomically(content, path)
    with pytest.raises(UsageError, match=r"reward\.linears\.0\.weight is not finite"):
        trained.export_agent(path, tmp_path / "agents", "bfloat16")


def test_agents_by_name(run, tmp_path, monkeypatch):
    weak = trained.export_agent(run / "checkpoints/last.ckpt", tmp_path / "agents")
    other = write_run(tmp_path / "other", "bmpc", seed=2)
    strong = trained.export_agent(other / "checkpoints/last.ckpt", tmp_path / "agents")
    for path, value in ((weak, 300.0), (strong, 310.0)):
        played = {"planner": "policy", "return": value, "episodes": 2, "dtype": "float16"}
        write_card(path, {**trained.read_card(path), "evaluations": [played]})
    assert {"cartpole-swingup/tdmpc2-seed7", "cartpole-swingup/bmpc-seed2"} <= set(trained.agent_names())
    assert trained.find_agent("cartpole-swingup/tdmpc2-seed7") == weak
    assert trained.locate("agent:cartpole-swingup/bmpc-seed2") == strong
    assert not library.hides_packaged(weak)
    shutil.copytree(tmp_path / "agents", tmp_path / "package")
    monkeypatch.setattr(library, "PACKAGED", tmp_path / "package")
    assert library.hides_packaged(weak)
    assert not library.hides_packaged(tmp_path / "package/cartpole-swingup/tdmpc2-seed7.ckpt")
    monkeypatch.setattr(library, "PACKAGED", tmp_path / "none")
    assert trained.locate("cartpole-swingup") == strong  # the better of the two
    assert loading.load_agent("cartpole-swingup", "policy").model.value_heads.sizes[0] == 16  # no action
    (tmp_path / "cartpole-swingup").mkdir()  # of videos, say
    assert trained.locate("cartpole-swingup") == strong
    (tmp_path / "cartpole-swingup").rmdir()
    (tmp_path / "cartpole-swingup").touch()
    assert trained.locate("cartpole-swingup") == Path("cartpole-swingup")  # a file comes first
    for name in ("agent:cartpole-swingup", "agent:cartpole-swingup/bmpc-seed2"):
        assert library.full_name(name) == "agent:cartpole-swingup/bmpc-seed2"
    assert library.full_name("cartpole-swingup") == "cartpole-swingup"
    assert trained.locate("agent:cartpole-swingup") == strong
    with pytest.raises(UsageError, match=r"did you mean cartpole-swingup/bmpc-seed2\?"):
        trained.locate("agent:cartpole-swingup/bmpc-seed3")
    with pytest.raises(UsageError, match=r"walker\.ckpt does not exist"):
        loading.load_agent("walker.ckpt")


def test_the_best_planner_is_that_of_the_card(run, tmp_path, capsys):
    path = trained.export_agent(run / "checkpoints/last.ckpt", tmp_path / "agents")
    with pytest.raises(UsageError, match=r"tdmpc2-seed7\.json has no evaluation; dreammpc export-agent"):
        loading.load_agent(path, "best")
    card = trained.read_card(path)
    returns = {"policy": 5.0, "grad_mpc": 7.0, "dream_mpc": 6.0, "mppi": 7.0}
    played = [
        {"planner": name, "return": value, "episodes": 2, "dtype": "float16"}
        for name, value in returns.items()
    ]
    write_card(path, {**card, "evaluations": played})
    best = loading.load_agent(path, "best", horizon=2).planner
    assert best == make_planner("grad_mpc", 1, horizon=2)  # of equals the first
    cli.main(["demo", str(path), "planner=best", "--no-video"])
    assert "planned by grad_mpc: return " in capsys.readouterr().out
    found = list(compare(str(path), ["policy", "best", "grad_mpc"], seeds=[0]))
    assert [(each.planner, each.last) for each in found] == [("policy", False), ("grad_mpc", True)]
    with pytest.raises(UsageError, match="several agents as one have none"):
        loading.load_agent([path, path], "best")


@pytest.mark.parametrize("planner", ["spoiled.Planner", "nope", "", "../../x", "x" * 5000])
def test_a_card_has_no_planner_imported(planner, run, tmp_path, monkeypatch, capsys):
    (tmp_path / "spoiled.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = trained.export_agent(run / "checkpoints/last.ckpt", tmp_path / "agents")
    row = {"planner": planner, "return": 5.0, "episodes": 2, "dtype": "float16"}
    write_card(path, {**trained.read_card(path), "evaluations": [row]})
    with pytest.raises(SystemExit):
        cli.main(["demo", str(path), "planner=best", "--no-video"])
    error = capsys.readouterr().err
    assert error.startswith("error: planner best: on card ") and error.count("\n") == 1 and len(error) < 1000
    assert "which is not registered; there are: cem, " in error and "spoiled" not in sys.modules
    with pytest.raises(UsageError, match="return must be int or float, got True"):
        write_card(path, {**trained.read_card(path), "evaluations": [{**row, "return": True}]})
        trained.read_card(path)


def test_a_setting_is_for_the_agents_whose_best_planner_has_it(run, tmp_path):
    paths = []
    for name, best in (("one", "policy"), ("two", "grad_mpc")):
        path = trained.export_agent(
            run / "checkpoints/last.ckpt", tmp_path / "agents", name=f"cartpole-swingup/{name}"
        )
        row = {"planner": best, "return": 5.0, "episodes": 2, "dtype": "float16"}
        write_card(path, {**trained.read_card(path), "evaluations": [row]})
        paths.append(str(path))
    found = {each.planner: each.rows[0] for each in compare(paths, "best", {"horizon": 2}, seeds=[0])}
    assert found.keys() == {"policy", "grad_mpc"} and found["grad_mpc"]["settings"]["horizon"] == 2
    with pytest.raises(UsageError, match="each of the planners policy, grad_mpc has no setting"):
        list(compare(paths, "best", {"nothing": 2}, seeds=[0]))


def test_the_commands(run, tmp_path, capsys):
    cli.main(["export-agent", "secret/run/checkpoints/last.ckpt", "-o", "agents", "--episodes", "2"])
    out = capsys.readouterr().out
    assert "cartpole-swingup/tdmpc2-seed7: " in out and "(float16)" in out and "too large" not in out
    card = trained.read_card(Path("agents/cartpole-swingup/tdmpc2-seed7.ckpt"))
    assert [row["planner"] for row in card["evaluations"]] == ["policy", "dream_mpc"]
    assert all(row["episodes"] == 2 and row["dtype"] == "float16" for row in card["evaluations"])
    rows = read_rows(["agents/cartpole-swingup/tdmpc2-seed7.csv"])
    assert {row["checkpoint"] for row in rows} == {"agent:cartpole-swingup/tdmpc2-seed7"}
    assert sum(row["return"] for row in rows if row["planner"] == "policy") / 2 == pytest.approx(
        card["evaluations"][0]["return"]
    )
    cli.main(["agents"])
    assert "cartpole-swingup/tdmpc2-seed7 " in capsys.readouterr().out
    piped = f"{sys.executable} -m dreammpc.cli agents | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", piped], capture_output=True, text=True, timeout=600)
    assert done.returncode == 1 and done.stderr == ""
    cli.main(["agents", "cartpole-swingup/tdmpc2-seed7"])
    assert "command: lightning run train seed=7" in capsys.readouterr().out

    play = ["demo", "cartpole-swingup/tdmpc2-seed7", "planner=mppi", "planner.num_samples=16"]
    play += ["planner.num_elites=4", "planner.num_policy=2", "--seed", "1000"]
    cli.main([*play[:3], "--no-video", *play[3:]])
    told = capsys.readouterr().out
    assert "planned by mppi: return " in told and "10 actions" in told and not list(Path().glob("*.mp4"))
    cli.main(
        ["demo", "cartpole-swingup/tdmpc2-seed7", "planner=policy", "--seed", "1000", "--video", "a/b.gif"]
    )
    told = capsys.readouterr().out
    first = next(row for row in rows if row["planner"] == "policy")
    assert f"return {first['return']:.1f} in {first['length']} actions" in told
    assert "video: a/b.gif" in told and Path("a/b.gif").stat().st_size > 1000


@pytest.mark.parametrize("key", ["planner", "planner._target_"])
def test_a_planner_by_dotted_path_is_played(key, run, capsys):
    path, place = str(run / "checkpoints/last.ckpt"), "dreammpc.planning.GradMPC"
    cli.main(["demo", path, f"{key}={place}", "planner.horizon=2", "--no-video"])
    assert f"planned by {place}: return " in capsys.readouterr().out


@pytest.mark.parametrize("obs", ["pixels", "both"])
def test_an_agent_of_frames_is_shown_frames(obs, run, tmp_path, capsys):
    path = write_run(tmp_path / "seeing", obs=obs) / "checkpoints/last.ckpt"
    cli.main(["demo", str(path), "planner=policy", "--no-video"])
    plain = capsys.readouterr().out
    cli.main(["demo", str(path), "planner=policy", "--video", "seen.gif"])
    told = capsys.readouterr().out
    assert plain.split(" in ")[0] in told and "video: seen.gif" in told and Path("seen.gif").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["demo", ""],
            "the checkpoint's name is empty",
        ),
        (
            ["demo", "walker-wok"],
            "walker-wok does not exist, nor does an agent of that name; did you mean walker-walk?",
        ),
        (["demo", "{run}", "--seed", "-1"], "--seed must be from 0 to 2147483647, got -1"),
        (["demo", "agent:nothing"], "unknown agent 'nothing'"),
        (["demo", "{run}", "planner=mpi"], "unknown planner 'mpi'"),
        (["demo", "{run}", "planner=best"], "last.json is missing or damaged; dreammpc export-agent makes"),
        (["demo", "lost.ckpt", "planner=best"], "checkpoint lost.ckpt does not exist"),
        (["export", "{run}", "--planner", "best"], "last.json is missing or damaged"),
        (["demo", "{run}", "planner.horizon=far"], "horizon"),
        (
            ["demo", "{run}", "planner=policy", "planner=mppi"],
            "the planner is chosen twice: planner=policy planner=mppi",
        ),
        (["demo", "{run}", "--no-video", "horizon=2"], "'horizon=2': expected planner=NAME"),
        (["demo", "{run}", "planner="], "'planner=': expected planner=NAME"),
        (["demo", "{run}", "horizon=2"], "expected planner=NAME or planner.KEY=VALUE"),
        (["demo", "{run}", "--video", "/proc/no/a.mp4"], "cannot be written"),
        (["demo", "{run}", "--video", "folder.mp4"], "folder.mp4 is a folder"),
        (
            ["export-agent", "secret/run"],
            "a folder; expected a file, such as secret/run/checkpoints/last.ckpt",
        ),
        (["demo", "{run}", "--video", "a.xyz"], "a.xyz: expected a name that ends in .mp4 or .gif"),
        (["agents", "nothing"], "unknown agent 'nothing'"),
        (["export-agent", "lost.ckpt"], "lost.ckpt does not exist"),
        (["export-agent", "{run}", "--dtype", "int8"], "unknown dtype 'int8'; there are: float16, bfloat16"),
        (["export-agent", "{run}", "--name", "walker-walk/x"], "expected cartpole-swingup/ and a word"),
        (["export-agent", "{run}", "--planners", "policy,mpi"], "unknown planner 'mpi'"),
        (["demo", "{run}", "algorithm=bmpc"], "algorithm=bmpc did not train checkpoint"),
        (["export-agent", "{run}", "--planners", ","], "--planners ',': expected at least one name, such as"),
        (["export-agent", "{run}", "--episodes", "0"], "--episodes must be from 1 to 10000, got 0"),
    ],
)
def test_mistakes_are_one_line(words, message, run, tmp_path, capsys):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(SystemExit) as stop:
        cli.main([word.replace("{run}", str(run / "checkpoints/last.ckpt")) for word in words])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.rglob("*.tmp")) and not list((tmp_path / "agents").glob("*/*.ckpt"))


def test_an_agent_is_not_exported_over_itself(tmp_path, capsys):
    path = tmp_path / "agents/cartpole-swingup/tdmpc2-seed1.ckpt"
    path.parent.mkdir(parents=True)
    path.write_bytes(locate("agent:cartpole-swingup/tdmpc2-seed1").read_bytes())
    before = path.read_bytes()
    with pytest.raises(SystemExit):
        cli.main(["export-agent", str(path), "-o", str(tmp_path / "agents"), "--planners", "policy"])
    assert f"{path} is what is read; name another file" in capsys.readouterr().err
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_what_comes_with_the_package_can_be_played():
    packaged = list(library.PACKAGED.glob("*/*.ckpt"))
    assert packaged
    for path in packaged:
        card = trained.read_card(path)
        assert card["name"] == f"{path.parent.name}/{path.stem}"
        assert card["bytes"] == path.stat().st_size <= 3_000_000
        assert card["curve"] and card["command"] and card["hardware"] and card["seconds"]
        model, facts = loading.load_model(path)
        assert facts["task"] == card["task"] == path.parent.name
        action = model.policy(model.initial_belief(3), torch.zeros(3, model.action_dim))
        assert torch.isfinite(action).all()


@pytest.mark.parametrize("name", agent_names())
def test_the_command_on_a_card_is_what_the_agent_was_trained_with(name):
    """Also after a default has changed since."""
    path = locate(f"agent:{name}")
    trained = load_checkpoint(path)[DESCRIPTION]["config"]
    words = shlex.split(read_card(path)["command"])
    assert words[:3] == ["lightning", "run", "train"]
    config = asdict(compose("train", words[3:]))
    assert {key: config[key] for key in ("task", "seed", "steps")} == {
        key: trained[key] for key in ("task", "seed", "steps")
    }
    assert config["planner"].items() >= trained["planner"].items()  # newer settings have their defaults
    for key in ("name", "batch_size", "lr", "target_rate", "utd", "seed_steps", "horizon"):
        assert config["algorithm"][key] == trained["algorithm"][key], key

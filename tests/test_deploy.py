"""Agents exported to a file: they act as the agent does, say what they are, and refuse what cannot be."""

import functools
import json
import operator
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from dreammpc import load_agent
from dreammpc.agent import Agent
from dreammpc.cli import parser as cli
from dreammpc.deploy import formats
from dreammpc.deploy.check import Record
from dreammpc.deploy.control_loop import ControlLoop
from dreammpc.deploy.description import read_description
from dreammpc.deploy.exported import ExportedAgent
from dreammpc.deploy.graph import program
from dreammpc.interfaces import UsageError
from dreammpc.models import SimulatorModel
from dreammpc.planning import Tracking, make_planner
from dreammpc.trained import find_agent

AGENT = "cartpole-swingup"
needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="needs the extra [onnx]"
)


@pytest.fixture(scope="module", autouse=True)
def read_once():
    """PyTorch takes a second to read a program: of the same file it is read once."""
    read = functools.cache(lambda path, *version, load=torch.export.load: load(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.export, "load", lambda path: read(path, path.stat().st_mtime_ns))
        yield


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """An exported agent that can plan two actions ahead."""
    path = tmp_path_factory.mktemp("deploy") / "agent.pt2"
    cli.main(["export", AGENT, "-o", str(path), "--ahead", "2", "--steps", "12", "planner.horizon=2"])
    return path


def refused(arguments, capsys, code=2):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    captured = capsys.readouterr()
    assert stop.value.code == code, captured.err
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), captured.err
    return lines[0]


def rewritten(source, target, change):
    """A copy of an archive whose description `change` has changed."""
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w") as after:
        for name in before.namelist():
            data = before.read(name)
            if name.endswith("dreammpc.json"):
                description = json.loads(data)
                change(description)
                data = json.dumps(description).encode()
            after.writestr(name, data)
    return target


def test_a_file_acts_as_the_agent_to_the_bit(archive, capsys):
    cli.main(["verify", str(archive)])
    out = capsys.readouterr().out
    assert "| pt2    |    12 |            0.0e+00 | 0.0e+00 |     100.0 % |" in out
    assert out.strip().endswith(f"acts as its agent did: {AGENT}, {AGENT}/tdmpc2-seed1, planned by dream_mpc")


def test_a_file_needs_nothing_of_ours(archive):
    """As docs/deploy.md loads it; its operations are PyTorch's own."""
    exported = torch.export.load(archive)
    called = {node.target for node in exported.graph.nodes if node.op == "call_function"}
    assert called and all(str(target).startswith("aten.") for target in called - {operator.getitem})
    file = ExportedAgent(archive)
    module = exported.module()
    inputs = {"observation": torch.ones(1, 5), "pending": torch.zeros(1, 2, 1), "ahead": torch.tensor([0])}
    torch.manual_seed(3)
    action, plan, value, carry = module(inputs, file.carry)
    torch.manual_seed(3)
    ours, sequence = file(np.ones(5))
    assert (action[0].numpy() == ours).all() and (plan[0].numpy() == sequence).all()
    assert value.shape == (1,) and float(value) == file.value
    assert set(carry) == {"plan.candidates", "plan.started"}  # what no plan reads is not carried


def test_a_file_says_what_goes_in_and_out(archive):
    about = ExportedAgent(archive).description
    assert about["task"] == AGENT and about["planner"] == {"name": "dream_mpc", "horizon": 2}
    assert [(e["name"], e["kind"], e["shape"]) for e in about["inputs"]][:3] == [
        ("observation", "observation", [1, 5]),
        ("pending", "pending", [1, 2, 1]),
        ("ahead", "ahead", [1]),
    ]
    assert [e["name"] for e in about["outputs"]] == [
        "action",
        "plan",
        "value",
        "plan.candidates",
        "plan.started",
    ]
    assert about["action"]["own_low"] == [-1.0] and about["seconds_per_action"] == pytest.approx(0.02)


def test_ahead_plans_for_the_predicted_state():
    """With one pending action: as if the model's next latent had been observed."""
    agent = load_agent(AGENT, "policy")
    made = program(agent, ahead=2)
    observation, pending = torch.ones(1, 5), torch.tensor([[[0.5], [-0.25]]])
    latent = agent.model.encode({"observation": observation} | {})
    for count in range(3):
        inputs = {"observation": observation, "pending": pending, "ahead": torch.tensor([count])}
        action, *_ = made.module(inputs, dict(made.initial))
        with torch.no_grad():
            expected = agent.model.policy(latent, torch.zeros(1, 1))
            latent = agent.model.step(latent, pending[:, min(count, 1)])
        torch.testing.assert_close(action, expected)


def tracker(**sizes):
    """An agent that is moved by its action and is to go from 0 to 1 in the third step."""
    model = SimulatorModel(1, 1, lambda x, a: x + a, cost=lambda x, a, after: 0 * after.sum(-1))
    for name, value in sizes.items():
        setattr(model, name, value)
    reference = tuple((float(t >= 3),) for t in range(9))
    terms = [Tracking(reference=reference)]
    return Agent(model, make_planner("cem", 1, horizon=1, num_samples=64, num_elites=8, terms=terms))


@pytest.mark.parametrize(("ahead", "expected"), [(0, 0.0), (1, 0.0), (2, 1.0)])
def test_a_plan_ahead_tracks_where_to_be_then(ahead, expected):
    """After two pending steps the plan's own is the third; the carried time is that of the observation."""
    made = program(tracker(obs_dim=1), ahead=2)
    inputs = made.example()[0] | {"ahead": torch.tensor([ahead])}
    torch.manual_seed(0)
    action, _, _, carry = made.module(inputs, dict(made.initial))
    assert float(action) == pytest.approx(expected, abs=0.2) and float(carry["plan.time"]) == 1


def test_steps_without_a_plan_count_for_what_is_tracked(archive, tmp_path):
    path, row = str(tmp_path / "agent.pt2"), "[0,1,0,0,0]"
    words = ["--steps", "2", "planner.horizon=2", f"planner.terms=[{{name:tracking,reference:[{row}]}}]"]
    cli.main(["export", AGENT, "-o", path, *words])
    agent, untimed = ExportedAgent(path), ExportedAgent(archive)
    for one in (agent, untimed):
        one(np.ones(5))
        one.skip(3)
        one(np.ones(5))
        one.skip(-2)
    assert float(agent.carry["plan.time"]) == 3 and "plan.time" not in untimed.carry


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({}, "has no attribute obs_dim, which an export needs for the shape of observation"),
        ({"obs_dim": None}, "has no attribute obs_dim"),
        ({"obs_keys": ("pixels",)}, "has no attribute channels, which an export needs for the shape of pix"),
        ({"obs_keys": ("sound",)}, "observes 'sound'; what is exported takes observation and pixels"),
    ],
)
def test_a_model_that_does_not_say_what_it_observes(sizes, told):
    with pytest.raises(UsageError, match=f"model SimulatorModel {told}"):
        program(tracker(**sizes))


SAMPLING = {"num_samples": 24, "num_elites": 4, "iterations": 1}


@pytest.mark.parametrize(
    ("planner", "settings"),
    [
        ("mppi", SAMPLING | {"num_policy": 4}),
        ("cem", SAMPLING),
        ("icem", SAMPLING),
        ("grad_mpc", {"iterations": 1}),
        ("dream_mpc_paper", {}),
    ],
)
def test_planners_draw_as_the_agent_does(planner, settings):
    """The noise of a portable program, drawn outside in the same order, gives the same action."""
    agent = load_agent(AGENT, planner, horizon=2, **settings)
    observation, seen = torch.rand(1, 5), []
    for portable in (False, True):
        made = program(agent, portable=portable)
        torch.manual_seed(5)
        inputs = {
            e.name: torch.empty(e.shape).exponential_()
            if e.distribution == "exponential"
            else torch.randn(e.shape)
            for e in made.inputs
            if e.distribution
        }
        assert bool(inputs) == portable
        seen.append(made.module({"observation": observation, **inputs}, dict(made.initial))[0])
    torch.testing.assert_close(*seen, atol=1e-5, rtol=0)


@needs_onnx
@pytest.mark.parametrize("kind", ["onnx", "policy-onnx"])
def test_onnx(kind, tmp_path, capsys):
    path = tmp_path / "agent.onnx"
    words = [] if kind == "policy-onnx" else ["planner.horizon=1", "planner.num_candidates=2"]
    cli.main(["export", AGENT, "--format", kind, "-o", str(path), "--steps", "8", *words])
    capsys.readouterr()
    cli.main(["verify", str(path)])
    assert "acts as its agent did" in capsys.readouterr().out
    names = [entry["name"] for entry in ExportedAgent(path).description["inputs"]]
    assert names == (
        ["observation"]
        if kind == "policy-onnx"
        else ["observation", "noise.0", "plan.candidates", "plan.started"]
    )


def test_another_actor_is_found_out(archive, tmp_path, capsys):
    record = Record.of(ExportedAgent(archive).description["record"])
    other = replace(record, actions=-record.actions, values=0.9 * record.values).plain()
    changed = rewritten(archive, tmp_path / "other.pt2", lambda about: about.update(record=other))
    line = refused(["verify", str(changed)], capsys, code=1)
    assert "0.0 % of 12 actions are equal, 0.0 % are or have a plan of equal J; the largest" in line


def test_another_plan_of_the_same_value_is_as_good(archive, tmp_path, capsys):
    """MPPI draws one of its elites by rank, and ranks among equals are a matter of rounding."""
    record = Record.of(ExportedAgent(archive).description["record"])
    other = replace(record, actions=-record.actions, values=record.values * (1 + 1e-6)).plain()
    changed = rewritten(archive, tmp_path / "other.pt2", lambda about: about.update(record=other))
    cli.main(["verify", str(changed)])
    cells = [cell.strip() for cell in capsys.readouterr().out.split("|")]
    assert (
        cells.count("0.0 %") == 1 and cells.count("100.0 %") == 1
    )  # equal steps, and those that are as good


def test_actions_of_a_bare_policy_must_be_equal(tmp_path, capsys):
    path = tmp_path / "agent.pt2"
    cli.main(["export", AGENT, "--planner", "policy", "-o", str(path), "--steps", "2"])
    record = Record.of(ExportedAgent(path).description["record"])
    other = replace(record, actions=-record.actions).plain()
    changed = rewritten(path, tmp_path / "other.pt2", lambda about: about.update(record=other))
    assert "acts otherwise" in refused(["verify", str(changed)], capsys, code=1)


def test_a_file_of_another_version(archive, tmp_path, capsys):
    changed = rewritten(archive, tmp_path / "old.pt2", lambda about: about.update(format=7))
    line = refused(["verify", str(changed)], capsys)
    assert "is of version 7" in line and "reads version 2: export the agent again" in line


def test_a_description_without_its_inputs(archive, tmp_path, capsys):
    changed = rewritten(archive, tmp_path / "less.pt2", lambda about: about.pop("inputs"))
    assert "is damaged: its description has no inputs" in refused(["verify", str(changed)], capsys)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"inputs": 5}, "inputs must be of type list[dict], got 5 (int)"),
        ({"inputs": []}, "inputs have no observation"),
        ({"inputs": [{"name": "observation"}]}, "inputs: kind must be of type str, got None"),
        ({"outputs": []}, "outputs have no action with 2 dimensions"),
        ({"planner": None}, "planner must be of type dict, got None"),
        ({"planner": {}}, "planner.name must be of type str, got None"),
        ({"seconds_per_action": 0}, "seconds_per_action must be above 0 and finite, got 0"),
        ({"seconds_per_action": float("nan")}, "seconds_per_action must be above 0 and finite, got nan"),
        ({"seconds_per_action": "x"}, "seconds_per_action must be of type float | None, got 'x'"),
        ({"observation": None}, "observation must be of type dict, got None"),
        ({"action_repeat": 0}, "action_repeat must be at least 1, got 0"),
        ({"task": 3}, "task must be of type str, got 3"),
        ({"kind": "foo"}, "kind must be one of pt2, aoti, onnx, policy-onnx, got 'foo'"),
    ],
)
def test_a_damaged_description_is_one_line(archive, change, told, tmp_path, capsys):
    changed = rewritten(archive, tmp_path / "changed.pt2", lambda about: about.update(change))
    line = refused(["verify", str(changed)], capsys)
    assert f"file {changed} is damaged: its description's {told}" in line


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"shape": [1, -2]}, "inputs: shape must be at least 0, got -2"),
        ({"dtype": "text"}, "inputs: dtype must be one of bool, uint8"),
        ({"initial": [[1, 2], [3]]}, "inputs: initial of plan.candidates must be 0 or numbers of shape [1, "),
        ({"initial": "zeros"}, "inputs: initial of plan.candidates must be 0 or numbers of shape [1, "),
        ({"initial": None}, "inputs: initial of plan.candidates must be 0 or numbers of shape [1, "),
        (
            {"shape": [1], "dtype": "uint8", "initial": [300]},
            "inputs: initial of plan.candidates must be 0 or numbers of shape [1]",
        ),
        ({"kind": "noise"}, "inputs: distribution must be of type str, got None"),
    ],
)
def test_a_damaged_input_is_one_line(archive, change, told, tmp_path, capsys):
    def damage(about):
        next(entry for entry in about["inputs"] if entry["name"] == "plan.candidates").update(change)

    line = refused(["verify", str(rewritten(archive, tmp_path / "changed.pt2", damage))], capsys)
    assert told in line


def test_a_carry_begins_with_its_own_type(archive, tmp_path):
    def change(about):
        entry = next(entry for entry in about["inputs"] if entry["name"] == "plan.candidates")
        entry.update(shape=[1, 2], dtype="uint8", initial=[[3, 255]])

    carry = ExportedAgent(rewritten(archive, tmp_path / "bytes.pt2", change)).carry["plan.candidates"]
    assert carry.dtype == torch.uint8 and carry.tolist() == [[3, 255]]


def test_inputs_that_its_program_does_not_have(archive, tmp_path, capsys):
    changed = rewritten(archive, tmp_path / "changed.pt2", lambda about: about["inputs"].pop())
    line = refused(["verify", str(changed)], capsys, code=1)
    assert f"file {changed} cannot be run with the inputs that it describes: " in line


@pytest.mark.parametrize("cut", [10, 5000, -200])
def test_a_damaged_file(archive, tmp_path, cut, capsys):
    path = tmp_path / "cut.pt2"
    path.write_bytes(archive.read_bytes()[:cut])
    assert "is damaged, or was not made by dreammpc export" in refused(["verify", str(path)], capsys)


@pytest.mark.parametrize("how", ["encrypted", "compressed", "ends early"])
def test_a_damaged_archive(how, tmp_path):
    """What zipfile itself raises of changed bits: RuntimeError, zlib.error and EOFError."""
    path = tmp_path / "changed.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if how == "compressed" else 0) as archive:
        archive.writestr("agent/extra/dreammpc.json", json.dumps({"format": 2, "text": "x" * 99}))
    data = bytearray(path.read_bytes())
    entry, start = data.index(b"PK\x01\x02"), data.index(b".json") + len(".json")
    flips = {"encrypted": [(8, 1)], "compressed": [(start - entry, 6)], "ends early": [(22, 64), (26, 64)]}
    for place, bits in flips[how]:  # the flags; the first block's kind; both sizes
        data[entry + place] ^= bits
    path.write_bytes(data)
    with pytest.raises(UsageError, match="is damaged, or was not made by dreammpc export"):
        read_description(path)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--format", "torchscript"], "unknown format 'torchscript'"),
        (["-o", "agent.onnx"], "output agent.onnx: a file of format pt2 ends in .pt2"),
        (["planner.max_ms=5"], "max_ms=5 depends on the clock"),
        (
            ["--format", "policy-onnx", "--planner", "mppi"],
            "policy-onnx has the policy alone, not planner mppi",
        ),
        (["--planner", "mpppi"], "mpppi"),
        (["--ahead", "-1"], "--ahead"),
        (["--ahead", "100000"], "--ahead must be from 0 to 100, got 100000"),
        (["--ahead", "1", "planner.measured_trust=true"], "a planner with measured_trust holds predictions"),
        (["--steps", "0"], "--steps"),
    ],
)
def test_what_cannot_be_exported_is_one_line(words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert told in refused(["export", AGENT, *words], capsys)
    assert not list(tmp_path.iterdir())


def test_without_the_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(formats, "import_module", lambda name: exec("raise ImportError"))
    line = refused(
        ["export", AGENT, "--format", "policy-onnx", "-o", str(tmp_path / "a.onnx"), "--steps", "2"], capsys
    )
    assert "needs onnx, which is not installed here: pip install 'dreammpc[onnx]'" in line
    assert not list(tmp_path.iterdir())


def test_a_file_that_acts_otherwise_is_not_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dreammpc.deploy.check.CLOSE", -1.0)
    words = ["export", AGENT, "--planner", "policy", "-o", str(tmp_path / "a.pt2"), "--steps", "2"]
    line = refused(words, capsys, code=1)
    assert "acts otherwise than the agent" in line and not list(tmp_path.iterdir())


def test_wrong_inputs_are_one_line(archive):
    file = ExportedAgent(archive)
    with pytest.raises(UsageError, match=r"observation: expected the shape \[5\], got \[4\]"):
        file(np.zeros(4))
    with pytest.raises(UsageError, match=r"plans for 2 pending actions at most, got 3"):
        file(np.zeros(5), np.zeros((3, 1)))


def looped(archive, capsys, *words):
    cli.main(["loop", str(archive), "--hz", "50", *words])
    return capsys.readouterr().out


def test_a_loop_in_the_simulator(archive, tmp_path, capsys):
    log = tmp_path / "ticks.csv"
    words = ["--seconds", "0.2", "--watchdog", "0", "--on-miss", "hold", "--ahead", "1", "--log", str(log)]
    out = looped(archive, capsys, *words)
    assert out.startswith(f"{AGENT}: ") and " ticks at 50 Hz, " in out and "jitter: median" in out
    rows = log.read_text().splitlines()
    assert rows[0] == "tick,jitter_s,plan_s,missed" and rows[1].startswith("0,") and 2 <= len(rows) <= 11


def test_a_loop_that_ends_before_a_plan(archive, capsys):
    out = looped(archive, capsys, "--hz", "1e9", "--seconds", "1e-9")
    assert "  plan: none was finished\n" in out and "nan" not in out


def test_latency_in_simulated_time(archive, capsys):
    """No latency is the exported episode itself; with one, a plan for the state of then is another."""
    file = ExportedAgent(archive)
    found = [
        looped(archive, capsys, "--seconds", "0.24", "--latency", latency, *words)
        for latency, words in (("0", []), ("40", []), ("40", ["--ahead", "1"]))
    ]
    values = [float(line.partition("return ")[2].split()[0]) for line in found]
    record = Record.of(file.description["record"])
    assert values[0] == pytest.approx(record.score, abs=0.06) and len(set(found)) == 3
    assert found[2].strip().endswith("from start 0, 40 ms late, plan-ahead")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--hz", "0"], "--hz 0 --seconds 10: expected at least one tick"),
        (["--hz", "nan"], "--hz"),
        (["--seconds", "inf"], "--seconds must be at least 0 and finite, got inf"),
        (["--ahead", "3"], "plans 2 ahead, got --ahead 3: export it with --ahead 3"),
        (["--task", "walker-walk"], "task walker-walk: observation has the shape [24], but file "),
        (["--task", "walker-wlak"], "walker-wlak"),
        (["--on-miss", "policy"], "--on-miss policy and --policy FILE go together"),
        (["--on-miss", "pray"], "on_miss must be one of plan, policy, hold, got 'pray'"),
        (["--policy", "none.pt2", "--on-miss", "policy"], "file none.pt2 does not exist"),
        (["--watchdog", "-1"], "watchdog must be at least a period"),
        (["--max-rate", "0"], "max_rate must be above 0"),
        (["--latency", "7"], "latency must be a multiple of 10 ms, a control step, got 7"),
        (["--latency", "nan"], "latency must be a multiple of 10 ms, a control step, got nan"),
        (["--latency", "60", "--ahead", "1"], "is 3 ticks, but file "),
        (["--latency", "20", "--log", "x.csv"], "--latency simulates the clock"),
        (["--log", "."], "--log .: expected a name that ends in .csv"),
        (["--log", "ticks.txt"], "--log ticks.txt: expected a name that ends in .csv"),
    ],
)
def test_a_loop_that_cannot_be_is_one_line(archive, words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert told in refused(["loop", str(archive), *words], capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("others", [[], ["--on-miss", "policy", "--policy", "policy.csv"]])
def test_a_log_is_no_file_that_is_read(archive, others, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("agent.csv", "policy.csv"):
        Path(name).write_bytes(archive.read_bytes())
    log = others[-1] if others else "./agent.csv"
    line = refused(["loop", "agent.csv", "--seconds", "0.2", *others, "--log", log], capsys)
    assert f"{Path(log)} is what is read; name another file" in line
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {archive.read_bytes()}


def test_a_file_is_not_written_over_its_agent(tmp_path, monkeypatch, capsys):
    """Whatever a checkpoint is called."""
    monkeypatch.chdir(tmp_path)
    source = find_agent(AGENT).read_bytes()
    for name, words in (
        ("own.pt2", ["export", "own.pt2", "-o", "own.pt2"]),
        ("own.mp4", ["demo", "own.mp4", "--video", "own.mp4"]),
    ):
        Path(name).write_bytes(source)
        assert f"{name} is what is read; name another file" in refused(words, capsys)
        assert Path(name).read_bytes() == source


def test_a_rate_that_the_machine_cannot_keep(archive, tmp_path, capsys):
    """Nobody plans 100,000 times a second; the log of what was there is written."""
    log = tmp_path / "ticks.csv"
    words = ["loop", str(archive), "--hz", "100000", "--watchdog", "0.01", "--log", str(log)]
    line = refused(words, capsys, code=1)
    assert "the rate of 100000 Hz cannot be kept: " in line
    late = (
        "no plan came in time for 0.01 s; the last took",
        "simulating what had passed took",
    )  # on a busy machine
    assert any(words in line for words in late), line
    assert log.exists()


def test_an_interrupted_loop_keeps_its_log(archive, tmp_path, monkeypatch, capsys):
    """Ctrl-C is one word and 130, as in recipes."""
    ticked = ControlLoop._tick

    def interrupted(self, number):
        if len(self.log) == 2:
            raise KeyboardInterrupt
        ticked(self, number)

    monkeypatch.setattr(ControlLoop, "_tick", interrupted)
    log = tmp_path / "ticks.csv"
    with pytest.raises(SystemExit) as stop:
        cli.main(["loop", str(archive), "--hz", "50", "--watchdog", "0", "--log", str(log)])
    assert stop.value.code == 130 and capsys.readouterr().err == "interrupted\n"
    assert len(log.read_text().splitlines()) == 3


def test_a_rate_that_the_simulator_cannot_keep(archive, monkeypatch, capsys):
    """It ends, and does not run after the clock for ever."""
    monkeypatch.setattr("dreammpc.deploy.plant.LONGEST", 0.01)
    line = refused(["loop", str(archive), "--hz", "1e8", "--seconds", "1"], capsys, code=1)
    assert "the rate of 1e+08 Hz cannot be kept: simulating what had passed took more than" in line


def test_a_task_that_a_file_names_is_not_imported(archive, tmp_path, capsys):
    changed = rewritten(
        archive, tmp_path / "a.pt2", lambda about: about.update(task="torchrl:antigravity:Env")
    )
    assert "if you trust it, add task=" in refused(["loop", str(changed)], capsys)

"""`dreammpc check-env`: all that is wrong with an environment, and nothing of what is not."""

import re

import odd_envs
import pytest
from odd_envs import ENDED, FINE, task

from dreammpc.cli import parser as cli
from dreammpc.envs import examine_steps
from dreammpc.envs.examine import examine

REMARKED = {
    "WFrameStack",
    "ListObs",
    "TorchObs",
    "RowObs",
    "OutOfBounds",
    "RewardBig",
    "Chatty",
    "Fixed",
    "WNormObs",
    "WNormRew",
    "NoLimit",
}
REMARKED |= {"ObsInt", "WFlatStack", "NoLimit", "NoLimitEnd5", "OwnLimit"}
"""Can be trained on, with a warning."""


@pytest.mark.parametrize("name", sorted({*FINE, "IntBox", "IntBoxSilent"} - REMARKED))
def test_nothing_wrong(name):
    found = examine(task(name), 60)
    assert found.errors == found.warnings == []


@pytest.mark.parametrize("name", ENDED)
def test_errors_are_those_that_a_training_ends_with(name):
    found = examine(task(name), 30)
    expected = re.sub(r"^(reset after )?step (\d+): |^reset before step 1: ", "", ENDED[name])
    assert any(re.search(expected, error) for error in found.errors), found.errors
    assert all("\n" not in text for text in found.errors + found.warnings)
    assert len(found.errors) == 1 or name.startswith("Flags")


WARNED = {
    "Fixed": r"action\[1\] can only be 0.3: it may be left out",
    "OutOfBounds": r"reset: observation\[0\] is 3, outside of \[-1, 1\]",
    "ListObs": r"the observation is a list of 2, not an array \[2\]",
    "TorchObs": r"the observation is a tensor float32 \[2\], not an array \[2\]",
    "RowObs": r"the observation is an array float64 \[1, 2\], not an array \[2\]",
    "RewardBig": "rewards and values beyond 20000 are cut",
    "SuccessText": 'info\\["success"\\] must be a number from 0 to 1, got the text',
    "SuccessPercent": 'info\\["success"\\] must be a number from 0 to 1, got 100.0',
    "NoLimit": "no time limit: episodes are cut off after 1000 steps",
    "RaiseClose": r"close\(\) raised RuntimeError: closed twice",
    "ExitClose": r"close\(\) raised SystemExit: 3",
    "HasStateArg": r"a resumed training begins a fresh episode: HasStateArg has get_state\(name\)",
    "HasStateObj": "a resumed training begins a fresh episode: .* holds Snapshot",
    "HasStateForgets": "the same actions give other observations",
    "PicNone": r"no video: render\(\) must give a picture",
    "PicMoves": r"render\(\) changes the environment",
    "WRecord": "no video: cannot be made: ",
    "WNormObs": "NormalizeObservation keeps statistics of its own",
    "WNormRew": "NormalizeReward keeps statistics of its own",
    "Unseeded": r"reset\(seed=0\) gives another start each time",
    "NoReset": "it may not reset at all",
    "Noisy": "the same seed and actions give other observations from number 2 on",
    "Chatty": "it prints, 'stepped 1' for one",
}


@pytest.mark.parametrize("name", WARNED)
def test_warnings(name):
    found = examine(task(name), 60)
    assert not found.errors
    assert any(re.search(WARNED[name], warning) for warning in found.warnings), found.warnings


@pytest.mark.parametrize(
    "name", ["HasState", "HasStateDict", "HasStateNpScalar", "HasStateGood", "HasGetOnly"]
)
def test_states_that_can_be_put_back(name):
    found = examine(task(name), 30)
    assert not found.errors and bool(found.warnings) == (name == "HasGetOnly")


def test_what_asks_for_input_and_what_raises_are_errors():
    assert "asks for input" in examine(task("Asking")).errors[0]
    (error,) = examine(task("RaiseValue"), 301).errors
    assert error.startswith("step 300: step() raised ValueError: the episode is over (odd_envs.py:")


def test_what_is_slow(monkeypatch):
    """By a clock of its own, which goes on in the environment alone."""
    now = [0.0]
    monkeypatch.setattr(examine_steps.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(odd_envs.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    found = examine(task("SlowReset"), 60)
    assert found.warnings == ["reset() takes 1.2 s"] and not found.errors
    found = examine(task("SlowStep"), 60)
    assert found.warnings == ["step() takes 300 ms: a training makes many thousands"] and not found.errors
    assert found.facts[-1] == "13 steps played of 60, as they are slow"


def test_several_faults_are_all_told(monkeypatch):
    import gymnasium

    def made(**more):
        return odd_envs.Point(
            obs=3, look=lambda s: [1.0], answer=lambda s, o, r, te, tr, i: (o, None, "", tr, i), **more
        )

    monkeypatch.setattr(gymnasium.registry["Unit-v0"], "entry_point", made)
    errors = examine(task("Unit")).errors
    assert len(errors) == 3
    for part, error in zip(("observation", "reward", "terminated"), errors, strict=True):
        assert part in error


@pytest.mark.parametrize("name", ["cartpole-swingup", "gym-InvertedPendulum-v5", "gym-HalfCheetah-v5"])
def test_tasks_that_come_with_the_package(name):
    found = examine(name, 60)
    assert not found.errors
    assert all(warning.startswith("no video: ") for warning in found.warnings)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([task("Unit")], 0, "  nothing wrong"),
        ([task("Chatty"), "--steps", "5"], 0, "  warning: it prints"),
        ([task("FlagsNone")], 2, "  error: step 1: truncated must be True or False, got None"),
    ],
)
def test_the_command(words, code, said, capsys):
    try:
        cli.main(["check-env", *words])
        ended = 0
    except SystemExit as stop:
        ended = stop.code
    lines = capsys.readouterr().out.splitlines()
    assert ended == code and any(line.startswith(said) for line in lines[1:])
    assert lines[0].startswith(f"{words[0]}: 2 observations, 1 action, episodes of at most 20 steps, ")


def test_it_is_told_how_an_environment_is_made(capsys):
    words = [task("OneSided"), "--steps", "5", "env.max_episode_steps=9", "env.action_bound=1"]
    cli.main(["check-env", *words])
    assert "episodes of at most 9 steps" in (out := capsys.readouterr().out) and "nothing wrong" in out
    with pytest.raises(SystemExit):
        cli.main(["check-env", task("Unit"), "env.kwargs.gian=2"])
    assert "gian" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["Unit", "--steps", "0"], "--steps must be"),
        (["no-such-task"], "unknown task"),
        (["odd_envs:Uni-v0"], "did you mean gym-odd_envs:Uni-v0?"),
        ([task("Unitt")], f"Did you mean {task('Unit')}"),
        (["gym-no_package:Unit-v0"], "No module named 'no_package'"),
        (["gym-no_package:Unit-v0"], "; it must be installed or on PYTHONPATH"),
        (["Unit", "env.num_envs=2"], "env.num_envs=2: expected env.kwargs.KEY=VALUE"),
    ],
)
def test_mistakes(words, said, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["check-env", *words])
    assert stop.value.code == 2
    told = capsys.readouterr()
    assert said in told.err + told.out

"""Odd environments: what is taken as it is, and the one line that is said of what is not."""

import dataclasses
import importlib.util
import logging
import re

import gymnasium
import numpy as np
import odd_envs
import pytest
import torch
from odd_envs import ENDED, FINE, task
from tensordict import TensorDict

from dreammpc.data import make_collector
from dreammpc.data.collector import get_state, set_state
from dreammpc.envs import make_env
from dreammpc.envs.drawing import picture
from dreammpc.interfaces import ForeignError, RunError, UsageError
from dreammpc.training.files import save_atomically


def play(env, steps: int = 25) -> list[TensorDict]:
    """What `steps` random steps gave, with resets where an episode ended."""
    stream, seen, td = torch.Generator().manual_seed(0), [], env.reset()
    for _ in range(steps):
        action = torch.rand(env.action_spec.shape, generator=stream) * 2 - 1
        seen.append(env.step(td.set("action", action))["next"])
        done = seen[-1]["done"]
        td = (
            env.reset(TensorDict({"_reset": done}, env.batch_size))
            if done.any()
            else seen[-1].exclude("reward")
        )
    return seen


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FINE)
def test_what_is_taken_as_it_is(name, monkeypatch):
    env = make_env(task(name), num_envs=2, seed=3)
    given, inside = [], env._own_actions

    def recorded(actions):
        given.append(inside(actions).copy())
        return inside(actions)

    monkeypatch.setattr(env, "_own_actions", recorded)
    seen = play(env)
    assert len(seen) == 25 and all(td["observation"].isfinite().all() for td in seen)
    assert all(env.envs[0].action_space.contains(action) for actions in given for action in actions)
    ends = [step for step, td in enumerate(seen, 1) if td["done"].all()]
    own = {"End1": 1, "End2": 2, "Limit1": 1, "Limit2": 2, "Limit3": 3, "NoLimit": 99, "NoLimitEnd5": 5}
    own |= {"OwnLimit": 10, "OwnLimit20": 10, "WTimeLimit": 7, "BothFlags": 6}
    own |= dict.fromkeys(("FlagsNp", "FlagsInt", "FlagsArr", "FlagsTorch"), 7)
    assert ends == [n for n in range(1, 26) if n % own.get(name, 20) == 0]
    if name.startswith("Success") and name != "SuccessNone":
        assert set(env.success) <= {0.0, 1.0}


@pytest.mark.parametrize("name", ["IntBox", "IntBoxSilent"])
def test_integer_actions_are_whole_numbers_of_the_space(name, monkeypatch):
    env = make_env(task(name))
    space, seen = env.envs[0].action_space, []
    monkeypatch.setattr(
        env.envs[0], "step", lambda a, step=env.envs[0].step: seen.append(a.copy()) or step(a)
    )
    for unit in (-1.0, -0.31, 0.0, 0.29, 1.0, 1.5):
        env.step(env.reset().set("action", torch.full((1, 1), unit)))
    assert all(space.contains(action) for action in seen)
    assert [int(action[0]) for action in seen] == [0, 3, 5, 6, 10, 10]


def test_the_replay_sees_the_actions_that_were_chosen():
    """Whatever an environment writes into the action that it is given."""
    env = make_env(task("InPlace"))
    td = env.reset().set("action", torch.tensor([[0.9]]))
    assert env.step(td)["action"].item() == pytest.approx(0.9)
    twice = make_env(task("InPlace"), action_repeat=2)
    start = twice.reset().set("action", torch.tensor([[0.8]]))
    moved = twice.step(start)["next", "observation"] - start["observation"]
    assert moved[0, 0].item() == pytest.approx(2 * 0.1 * 0.2)


@pytest.mark.parametrize("name", ENDED)
def test_one_line_says_what_is_wrong(name):
    with pytest.raises((UsageError, RunError), match=ENDED[name]) as error:
        play(make_env(task(name)))
    line = str(error.value)
    assert "\n" not in line and task(name) in line
    assert len(line) < 400
    if not isinstance(error.value, UsageError) and name != "RaiseMake":
        assert "environment 0, " in line
    assert isinstance(error.value, ForeignError) == name.startswith("Raise")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("RaiseValue", "step 300: ValueError: the episode is over"),
        ("RaiseConn", r"step 300: ConnectionResetError: \[Errno 104\] Connection reset by peer"),
        ("RaiseTimeout", "step 300: TimeoutError: the simulator does not answer"),
        ("RaiseReset", "reset after step 300: RuntimeError: scene cannot be loaded"),
        ("RaiseStop", "step 300: StopIteration: the log has ended"),
        ("RaiseAssert", r"step 300: AssertionError \(odd_envs"),
    ],
)
def test_what_an_environment_raises_is_its_own(name, said):
    with pytest.raises(ForeignError, match=f"{task(name)}', environment 0, {said}") as error:
        play(make_env(task(name)), 301)
    assert error.value.saveable and error.value.__cause__ is not None


@pytest.mark.parametrize("name", ["SuccessText", "SuccessDict", "SuccessPercent"])
def test_a_success_that_is_no_number_is_not_known(name, caplog):
    env = make_env(task(name))
    with caplog.at_level(logging.WARNING):
        play(env, 5)
    assert np.isnan(env.success).all()
    (record,) = caplog.records
    assert 'info["success"] must be a number from 0 to 1, got' in record.getMessage()


# --- states -------------------------------------------------------------------------------------------


class Steady:
    """A policy for a collector."""

    random = False

    def __init__(self, env):
        from tensordict.nn import TensorDictModule

        shape = env.action_spec.shape
        self.module = TensorDictModule(lambda obs: torch.full(shape, 0.5), ["observation"], ["action"])


def collector(name: str, seed: int):
    from torchrl.data import Composite
    from torchrl.envs.transforms import TensorDictPrimer

    env = make_env(task(name), seed=seed)
    policy = Steady(env).module
    policy.make_tensordict_primer = lambda: TensorDictPrimer(Composite(shape=(1,)))
    made = make_collector(env, policy)
    made.rolling = iter(made)
    return made


def observed(collecting, steps: int) -> list[float]:
    return [next(collecting.rolling)["next", "observation"][..., 0].item() for _ in range(steps)]


@pytest.mark.parametrize("name", ["HasState", "HasStateDict", "HasStateNpScalar", "HasStateGood"])
def test_states_of_numbers_and_arrays_go_on(name, tmp_path):
    one, other = collector(name, 1), collector(name, 2)
    observed(one, 13)
    save_atomically({"state": get_state(one)}, tmp_path / "state.pt")
    expected = observed(one, 8)  # the time limit of 20 falls within
    observed(other, 3)
    assert set_state(other, torch.load(tmp_path / "state.pt", weights_only=True)["state"])
    assert observed(other, 7) == expected[:7]
    assert expected[7] != pytest.approx(expected[6] + 0.05)  # another episode has begun
    next_start = next(other.rolling)["next", "observation"][..., 0].item()
    assert next_start != pytest.approx(expected[6] + 0.05)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("HasStateArg", r"has get_state\(name\), and get_state\(\) is what can be used"),
        ("HasStateTuple", r"has set_state\(qpos, qvel\), and set_state\(state\) is what can be used"),
        ("HasStateObj", "holds Snapshot, which cannot be saved as plain data"),
        ("HasGetOnly", r"has a get_state\(\) but no set_state\(state\)"),
        ("HasStateRaises", "raised OSError: no connection"),
        ("Unit", r"^\w+ has no get_state\(\)$"),
    ],
)
def test_states_that_cannot_be_used_are_told_apart(name, why):
    made = collector(name, 1)
    observed(made, 3)
    assert get_state(made) is None
    assert re.search(why, made.env.base_env.stateless)
    assert not set_state(made, None)


def test_a_state_that_is_refused_starts_a_fresh_episode():
    made = collector("HasStateStuck", 1)
    observed(made, 5)
    state = get_state(made)
    other = collector("HasStateStuck", 2)
    observed(other, 5)
    assert not set_state(other, state)
    assert "set_state() of HasStateStuck raised KeyError" in other.env.base_env.stateless
    assert len(observed(other, 19)) == 19 and other.env.base_env.envs[0].unwrapped.t == 19
    first = next(other.rolling)
    assert first["next", "truncated"].item()  # after 20 steps from a reset: carrier and environment agree


def test_what_a_wrapper_remembers_is_no_state():
    env = gymnasium.wrappers.FrameStackObservation(gymnasium.make("odd_envs:HasStateGood-v0"), 2)
    from dreammpc.envs.state import Unusable, state_of

    with pytest.raises(Unusable, match="FrameStackObservation keeps a memory"):
        state_of(env)


# --- pictures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "PicOdd",
        "PicBig",
        "PicGray",
        "PicGrayOdd",
        "PicGray1",
        "PicAlpha",
        "PicFloat",
        "PicFloat64",
        "PicCHW",
        "PicCHWOdd",
    ],
)
def test_pictures_of_every_form(name):
    env = make_env(task(name), render=True)
    env.reset()
    frame = env.render(0, 32, 48)
    assert frame.shape == (32, 48, 3) and frame.dtype == np.uint8
    assert (frame == (102 if "Float" in name else 100)).all()
    pixels = make_env(task(name), obs="pixels").reset()["pixels"]
    assert pixels.shape == (1, 3, 64, 64) and pixels.unique().tolist() == [102 if "Float" in name else 100]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "PicList",
            r"render\(\) must give a picture, .* got a list of 1 \(of render_mode rgb_array_list\?\)",
        ),
        ("PicNone", r"render\(\) must give a picture, .* got None"),
        ("PicFloat255", r"render\(\) gave float32 from 100 to 100: .* floats from 0 to 1"),
    ],
)
def test_what_is_no_picture(name, said):
    env = make_env(task(name), render=True)
    env.reset()
    with pytest.raises(UsageError, match=said):
        env.render()
    with pytest.raises(UsageError, match=f"obs=pixels: .*{said}") as error:
        make_env(task(name), obs="pixels")
    assert "MUJOCO_GL" not in str(error.value)


def test_channels_go_last_only_where_it_is_unmistakable():
    high = np.zeros((3, 64, 3), np.uint8)
    assert picture(high) is not None and picture(high).shape == (3, 64, 3)
    one = np.zeros((3, 5, 7), np.uint8)
    one[0, 2, 4] = 9
    assert picture(one).shape == (5, 7, 3) and picture(one)[2, 4].tolist() == [9, 0, 0]


@pytest.mark.parametrize(("name", "fps"), [("MetaNone", 30), ("NoRenderFps", 30), ("Fps0", 30), ("Unit", 20)])
def test_frames_per_second(name, fps):
    assert make_env(task(name)).fps == fps
    assert make_env(task(name), action_repeat=2).fps == fps / 2


def test_closing_is_no_fault_of_the_run(caplog):
    env = make_env(task("RaiseClose"))
    env.reset()
    with caplog.at_level(logging.WARNING):
        env.close()
    assert "close() failed: RuntimeError: closed twice" in caplog.text


def test_no_class_of_oddness_is_without_a_test():
    """Each is here, in the tests of `check-env`, or in those of a training."""
    elsewhere = {
        "actions": {"IntBox", "IntBoxSilent"},
        "answers": {"SuccessText", "SuccessDict", "SuccessPercent"},
    }
    elsewhere["exceptions"] = {name for name, kind in odd_envs.ODD.items() if kind == "exceptions"}
    for kind in ("actions", "spaces", "observations", "answers", "ends", "exceptions"):
        names = {name for name, own in odd_envs.ODD.items() if own == kind}
        assert names <= set(FINE) | set(ENDED) | elsewhere.get(kind, set())


# --- videos -------------------------------------------------------------------------------------------


def filmed(name: str, folder):
    from dreammpc.agent import Agent
    from dreammpc.configuration.assembly import build_env, build_model
    from dreammpc.evaluation.film import film
    from dreammpc.models import SIZES
    from dreammpc.planning import make_planner

    model = build_model(build_env(task(name), 0), dataclasses.asdict(SIZES["nano"]))
    agent = Agent(model, make_planner("policy", model.action_dim))
    return film({"": agent}, task(name), 0, folder / "film.gif")


@pytest.mark.parametrize("name", ["Fps0", "PicCHWOdd", "PicGray"])
def test_videos_of_odd_pictures(name, tmp_path):
    from PIL import Image

    assert filmed(name, tmp_path)[""].lengths == [20]
    with Image.open(tmp_path / "film.gif") as film:
        frame = np.asarray(film.convert("RGB"))
    assert abs(frame.astype(int) - (128 if name == "Fps0" else 100)).max() < 3


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("PicNone", r"render\(\) must give a picture, uint8 \[height, width, 3\], got None"),
        ("PicFloat255", "floats from 0 to 1"),
        ("PicLate", r"render\(\) raised ValueError: the window is gone"),
        ("WRecord", "cannot be made: .*moviepy"),
    ],
)
def test_no_video_and_why(name, why, tmp_path, caplog, monkeypatch):
    if name == "WRecord" and importlib.util.find_spec("moviepy"):
        pytest.skip("moviepy is installed")
    if name == "PicLate":

        def late(s):
            return odd_envs.fail(ValueError("the window is gone")) if s.t == 5 else np.zeros((9, 9, 3), "u1")

        monkeypatch.setattr(
            gymnasium.registry["Unit-v0"], "entry_point", lambda **k: odd_envs.Point(draw=late, **k)
        )
        name = "Unit"
    with caplog.at_level(logging.WARNING):
        assert filmed(name, tmp_path) is None
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("no video: ") and "MUJOCO_GL" not in said and "\n" not in said
    assert re.search(why, said)
    assert not list(tmp_path.iterdir())


def test_advice_about_opengl_where_opengl_failed(tmp_path, caplog, monkeypatch):
    from dreammpc.envs import dmcontrol
    from dreammpc.evaluation.film import film

    def broken(self, height, width):
        exec(compile("raise RuntimeError('no context')", "/lib/OpenGL/error.py", "exec"))

    monkeypatch.setattr(dmcontrol.DMControl, "render", broken)
    with caplog.at_level(logging.WARNING):
        assert film({}, "cartpole-swingup", 0, tmp_path / "film.gif") is None
    assert "no video: " in caplog.text and "MUJOCO_GL" in caplog.text

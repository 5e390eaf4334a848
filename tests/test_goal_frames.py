"""A picture as a goal: read, compared, stored, and encoded by models that see frames."""

import copy
import dataclasses
import json
import pickle

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from foreign_models import foreign_model
from frames import frames, make_model, observation
from toy_models import random_tdmpc2

from dreammpc.agent import Agent
from dreammpc.algorithms import BMPC
from dreammpc.algorithms.bmpc import replan
from dreammpc.interfaces import MEMORY, UsageError
from dreammpc.models import BMPCModel
from dreammpc.planning import Goal, Imagination, make_planner
from dreammpc.planning.contract import check_term
from dreammpc.planning.goal_frames import Frames


def picture(path, size=64):
    pixels = np.random.default_rng(0).integers(256, size=(size, size, 3), dtype=np.uint8)
    imageio.imwrite(path, pixels)
    return torch.as_tensor(pixels).permute(2, 0, 1)


def test_a_picture_is_read_from_files_and_arrays(tmp_path):
    shown = picture(tmp_path / "goal.png")
    np.save(tmp_path / "goal.npy", shown.numpy())
    backwards = shown.numpy()[:, ::-1].copy()[:, ::-1]  # with negative strides
    for given in (tmp_path / "goal.png", str(tmp_path / "goal.npy"), shown, shown.numpy(), backwards):
        assert torch.equal(Frames(given).on(torch.device("cpu")), shown)


def test_it_travels_with_its_name_and_without_its_file(tmp_path):
    picture = tmp_path / "goal.npy"
    np.save(picture, np.zeros((3, 4, 4), np.uint8))
    frames = Frames(picture)
    text = pickle.dumps(frames)
    picture.unlink()
    again = pickle.loads(text)
    assert again == frames and hash(again) == hash(frames) and isinstance(again, Frames)
    assert (again.on(torch.device("cpu")) == frames.on(torch.device("cpu"))).all()


def test_it_is_a_setting_like_others(tmp_path):
    shown = picture(tmp_path / "goal.png")
    one, two, other = Frames(shown), Frames(shown.clone()), Frames(255 - shown)
    assert one == two and hash(one) == hash(two) and one != other
    assert torch.equal(pickle.loads(pickle.dumps(one)).on(torch.device("cpu")), shown)
    assert copy.deepcopy(one) is one
    planner = make_planner("mppi", 2, terms=[{"name": "goal", "frames": str(tmp_path / "goal.png")}])
    assert hash(planner) == hash(dataclasses.replace(planner))
    assert str(tmp_path / "goal.png") in json.dumps(dataclasses.asdict(planner))


def test_an_agent_that_sees_frames_gets_one_as_its_goal():
    model, shown = make_model(), frames(3)
    term = Goal(frames=shown)
    seen = observation(1, "pixels")
    seen["pixels"] = shown.unsqueeze(0)
    want = model.observe(seen, None, model.initial_belief(1)).exclude(MEMORY)
    torch.testing.assert_close(term.prepare(model, torch.device("cpu"))["z"], want["z"])
    latent = model.observe(observation(2, "pixels", 1), None, model.initial_belief(2)).exclude(MEMORY)
    planner = make_planner("dream_mpc", 2, terms=[Goal(weight=100.0, frames=shown)])
    with torch.no_grad():
        plan = planner.plan(Imagination(model), latent.detach(), planner.initial_state(2))
    assert (plan.diagnostics["gain"] >= 0).all()


def test_reanalyze_of_bmpc_goes_for_a_picture_too():
    model, seen = make_model(BMPCModel), observation(2, "pixels")
    seen["pixels"] = seen["pixels"].repeat(1, 3, 1, 1)  # a stack
    planner = make_planner("dream_mpc", 2, terms=[Goal(weight=100.0, frames=frames(3))])
    algorithm = BMPC(Agent(model, planner, record=True))
    assert replan(model, algorithm.expert, seen).action.isfinite().all()


@pytest.mark.parametrize("compile", [None, "eager"])
def test_it_keeps_the_contract_of_terms(tmp_path, compile):
    model, obs = foreign_model("lewm", tmp_path)
    latent = model.observe(obs, torch.zeros(4, 2), model.initial_belief(4))
    check_term(Goal(frames=obs["pixels"][0]), model, latent, compile=compile, device=None)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ("nowhere.png", "nowhere.png: no such file"),
        ("text.png", "text.png: not a picture"),
        ("text.npy", "text.npy: not a picture"),
        ("empty.npy", "empty.npy: not a picture"),
        (torch.zeros(3, 8, 8), r"expected a uint8 tensor or array \[C, h, w\].*float32 \[3, 8, 8\]"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), r"got uint8 \[8, 8, 3\]"),
        (7, r"got int64 \[\]"),
        ({"a": 1}, r"^frames: expected a picture's file, or a uint8 .* \[C, h, w\], got {'a': 1}$"),
        (bytes(3 * 64 * 64), r"got b'.{,40}$"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(tmp_path, monkeypatch, given, line):
    monkeypatch.chdir(tmp_path)
    for name in ("text.png", "text.npy"):
        (tmp_path / name).write_text("hello")
    (tmp_path / "empty.npy").touch()
    with pytest.raises(UsageError, match=line) as error:
        Goal(frames=given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("obs", "settings", "line"),
    [
        ("pixels", {"goal": (0.0,)}, "sees pixels: expected frames=picture"),
        ("state", {"frames": frames(3)}, r"sees observation: expected goal=\[numbers\]"),
        ("both", {"frames": frames(3)}, r"expected .*goal=\[numbers\]"),
        ("pixels", {"frames": frames(6)}, r"pixels: expected the shape \[B, 3, 64, 64\]"),
    ],
)
def test_a_goal_of_another_kind_is_refused_in_one_line(obs, settings, line):
    model = make_model(obs=obs) if obs != "state" else random_tdmpc2()
    with pytest.raises(UsageError, match=line) as error:
        Goal(**settings).prepare(model, torch.device("cpu"))
    assert "\n" not in str(error.value)

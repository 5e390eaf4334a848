"""Observations scaled by running statistics: numbers, training, resume, several processes, exports."""

import pytest
import torch
from commands import PENDULUM, refused, train
from frames import make_algorithm
from tensordict import TensorDict

from dreammpc.models import BMPCModel, TDMPC2Model
from dreammpc.nn import Normalizer, moments
from dreammpc.nn.normalizer import CLIP
from dreammpc.trained.export import export_agent
from dreammpc.trained.loading import load_agent, load_model

BATCHES = [torch.randn(50, 3, 2) * torch.tensor([0.01, 300.0]) + torch.tensor([5.0, 1e4]) for _ in range(20)]


def test_statistics_are_those_of_all_batches():
    normalizer = Normalizer(2)
    assert torch.equal(normalizer(BATCHES[0]), BATCHES[0].clamp(-CLIP, CLIP))
    for batch in BATCHES:
        normalizer.update(moments(batch))
    seen = torch.cat(BATCHES).flatten(0, 1).double()
    assert torch.allclose(normalizer.mean.double(), seen.mean(0), rtol=1e-6)
    assert torch.allclose(normalizer.variance.double(), seen.var(0, unbiased=False), rtol=1e-3)
    scaled = normalizer(torch.cat(BATCHES))
    assert (scaled.std((0, 1)) - 1).abs().max() < 0.01 and scaled.abs().max() <= CLIP


def test_an_entry_that_never_moved_is_not_blown_up():
    normalizer = Normalizer(1)
    for _ in range(3):
        normalizer.update(moments(torch.full((8, 1), 7.0)))
    assert normalizer(torch.tensor([7.0])) == 0 and normalizer(torch.tensor([7.001])).abs() < 1.01
    assert normalizer(torch.tensor([1e9])) == CLIP


@pytest.mark.parametrize("cls", [TDMPC2Model, BMPCModel])
def test_off_by_default_and_then_a_model_is_as_it_was(cls):
    plain, scaling = cls(3, 1, **SMALL), cls(3, 1, **SMALL, normalize=True)
    more = set(scaling.state_dict()) - set(plain.state_dict())
    assert more == {"normalizer.mean", "normalizer.variance", "normalizer.count"}
    assert cls(0, 1, **SMALL, obs="pixels", normalize=True).normalizer is None


SMALL = {"mlp_dim": 16, "latent_dim": 16, "enc_dim": 16, "num_heads": 2, "num_bins": 11}


@pytest.mark.parametrize("obs", ["state", "both"])
def test_plans_and_losses_see_scaled_observations(obs):
    torch.manual_seed(0)
    model = TDMPC2Model(3, 1, **SMALL, obs=obs, normalize=True)
    model.normalizer.update(moments(torch.randn(64, 3) * 100 + 1000))
    entries = {"observation": torch.randn(4, 3) * 100 + 1000, "pixels": torch.zeros(4, 9, 64, 64).byte()}
    seen = TensorDict({key: entries[key] for key in model.obs_keys}, [4])
    by_hand = seen.clone()
    by_hand["observation"] = model.normalizer(seen["observation"])
    expected = model.encoder(by_hand if obs == "both" else by_hand["observation"])
    assert torch.equal(model.encode(seen)["z"], expected)
    assert torch.equal(seen["observation"], entries["observation"])  # nothing is changed in place


def test_of_several_processes_all_take_in_the_mean(monkeypatch):
    algorithm = make_algorithm(
        TDMPC2Model,
        "state",
    )
    algorithm.agent.model.normalizer = Normalizer(5)
    other = torch.randn(64, 5) + 3

    class Two:
        def reduce(self, value, reduce_op):
            assert reduce_op == "mean"
            return (value + moments(other)) / 2

    algorithm._trainer = type("Trainer", (), {"strategy": Two()})()
    mine = torch.randn(8, 8, 5)
    algorithm.before_update(TensorDict({"next": {"observation": mine}}, [8, 8]))
    both = torch.cat([mine.flatten(0, 1), other]).double()
    assert torch.allclose(algorithm.agent.model.normalizer.mean.double(), both.mean(0), atol=1e-5)
    assert torch.allclose(
        algorithm.agent.model.normalizer.variance.double(), both.var(0, unbiased=False), rtol=1e-4
    )


def test_a_training_its_evaluation_and_what_is_made_of_it(tmp_path, monkeypatch, capsys):
    assert train(tmp_path, *PENDULUM, "env.normalize=true", "steps=320") == 0
    last = tmp_path / "run/checkpoints/last.ckpt"
    model, facts = load_model(last)
    assert facts["normalize"] and int(model.normalizer.count) > 0
    agent = load_agent(last, "policy")
    before = {key: value.clone() for key, value in agent.model.state_dict().items()}
    carry, first = agent.initial_carry(1), torch.ones(1, 1, dtype=torch.bool)
    seen = TensorDict({"observation": torch.randn(1, model.obs_dim)}, [1])
    agent.step(seen, carry, first)
    assert all(torch.equal(before[key], value) for key, value in agent.model.state_dict().items())
    exported = export_agent(last, tmp_path / "agents", dtype="float16")
    theirs, _ = load_model(exported)
    for name in ("mean", "variance", "count"):
        assert torch.equal(getattr(theirs.normalizer, name), getattr(model.normalizer, name))
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    words = ["resume=run/checkpoints/last.ckpt", "env.normalize=false", "steps=400"]
    assert "has env.normalize=true, not false" in refused("train", words, monkeypatch, capsys)


def test_pixels_have_no_vector(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["env.obs=pixels", "env.normalize=true"]
    assert "env.normalize scales a vector" in refused("train", words, monkeypatch, capsys)

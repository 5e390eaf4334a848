"""Frames to latents: convolutions, random shift, fusion, and the memory of recent frames in the belief."""

import pytest
import torch
import torch.nn.functional as F
from frames import CLASSES, A, O, frames, make_model, observation
from tensordict import TensorDict

from dreammpc.agent import Agent
from dreammpc.models import BMPCModel, TDMPC2Model
from dreammpc.models.encoders import FusedEncoder
from dreammpc.nn import ConvFeatures, random_shift
from dreammpc.planning import make_planner
from dreammpc.planning.contract import check_model


def test_random_shift_is_the_published_grid_without_its_rounding():
    """Replication by 3 and a bilinear grid at whole pixels, as in DrQ-v2 (arXiv 2107.09645, §3.1)."""
    images, size = frames(9, 9), 64 + 6
    offset = torch.tensor([[0, 0], [3, 3], [6, 6], [0, 6], [6, 0], [1, 5], [2, 3], [3, 4], [5, 0]])
    padded = F.pad(images.float(), (3, 3, 3, 3), mode="replicate")
    line = torch.linspace(-1 + 1 / size, 1 - 1 / size, size)[:64]
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    grid = grid + (offset.flip(-1) * 2 / size)[:, None, None]
    expected = F.grid_sample(padded, grid, padding_mode="zeros", align_corners=False)
    moved = random_shift(images, offset)
    assert moved.dtype == torch.uint8
    assert (moved - expected).abs().max() < 0.02
    assert torch.equal(moved[1], images[1])
    assert torch.equal(moved[3, :, 3:, :-3], images[3, :, :-3, 3:])  # down by three, left by three


def test_convolutions_are_those_published():
    conv = ConvFeatures(9)
    layers = [layer for layer in conv.layers if isinstance(layer, torch.nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0], c.stride[0]) for c in layers] == [
        (32, 7, 2),
        (32, 5, 2),
        (32, 3, 2),
        (32, 3, 1),
    ]
    images = frames(2, 9)
    x = images.float() / 255 - 0.5
    for i, layer in enumerate(layers):
        x = layer(x if i == 0 else x.relu())
    assert torch.allclose(conv(images), x.flatten(1), atol=1e-5)
    assert conv(images).shape == (2, conv.features)


@pytest.mark.parametrize("latent_dim", [512, 32])
def test_the_published_width_has_no_layer_between_features_and_latent(latent_dim):
    model = make_model(latent_dim=latent_dim)
    obs = TensorDict({"pixels": frames(2, 9)}, [2])
    z = model.encode(obs)["z"]
    assert z.shape == (2, latent_dim) and torch.allclose(z.unflatten(-1, (-1, 8)).sum(-1), torch.ones(()))
    features = model.encoder.conv(obs["pixels"])
    plain = features.unflatten(-1, (-1, 8)).softmax(-1).flatten(-2)
    assert (latent_dim == 512) == (z.shape == plain.shape and torch.equal(z, plain))


def test_fusion_reads_both_and_neither_drowns_the_other():
    model = make_model(obs="both")
    assert isinstance(model.encoder, FusedEncoder)
    one, other = (TensorDict({"pixels": frames(64, 9, seed=s)}, [64]) for s in (0, 1))
    state = torch.randn(2, 64, O)

    def moved(a, b):
        return (model.encode(a)["z"] - model.encode(b)["z"]).abs().mean().item()

    by_state = moved(one.clone().set("observation", state[0]), one.clone().set("observation", state[1]))
    by_pixels = moved(one.clone().set("observation", state[0]), other.clone().set("observation", state[0]))
    assert 0.2 < by_state / by_pixels < 50


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("obs", ["pixels", "both"])
def test_the_belief_carries_the_last_three_frames(cls, obs):
    model = make_model(cls, obs)
    belief, action = model.initial_belief(2), torch.zeros(2, A)
    steps = [observation(2, obs, seed) for seed in range(5)]
    for t, step in enumerate(steps):
        given = belief.clone()
        after = model.observe(step, action, belief)
        assert (belief == given).all()  # state in, state out
        stack = torch.cat([steps[max(i, 0)]["pixels"] for i in (t - 2, t - 1, t)], 1)
        assert torch.equal(after["memory", "frames"], stack)
        assert torch.equal(after["z"], model.encode(step.clone().set("pixels", stack))["z"])
        belief = after


def test_a_masked_reset_begins_a_new_stack_in_its_row_alone():
    agent = Agent(make_model(), make_planner("policy", A))
    carry, is_init = agent.initial_carry(2), torch.ones(2, 1, dtype=torch.bool)
    steps = [observation(2, "pixels", seed) for seed in range(4)]
    for t, step in enumerate(steps):
        _, carry = agent.step(step, carry, is_init)
        is_init = torch.tensor([[t == 1], [False]])
    newest = [step["pixels"] for step in steps]
    stacks = carry["belief", "memory", "frames"]
    assert torch.equal(stacks[0], torch.cat([newest[2][0], newest[2][0], newest[3][0]]))
    assert torch.equal(stacks[1], torch.cat([newest[1][1], newest[2][1], newest[3][1]]))


@pytest.mark.parametrize("planner", ["dream_mpc", "mppi"])
def test_planning_does_not_carry_frames_along(planner):
    model = make_model()
    seen = []
    step = model.step
    model.step = lambda latent, action: seen.append(set(latent.keys())) or step(latent, action)
    agent = Agent(model, make_planner(planner, A))
    agent.step(observation(2, "pixels"), agent.initial_carry(2), torch.ones(2, 1, dtype=torch.bool))
    assert seen and all(keys == {"z"} for keys in seen)


@pytest.mark.parametrize(("cls", "obs"), [(TDMPC2Model, "pixels"), (BMPCModel, "both")])
def test_contract(cls, obs):
    check_model(make_model(cls, obs), obs=observation(3, obs))


def test_what_can_be_observed():
    with pytest.raises(ValueError, match="obs must be one of state, pixels, both, got 'sound'"):
        make_model(obs="sound")

"""Updates from frames: the shift's place among the draws, what is learned, reanalyze on stacks."""

from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict
from test_pixels_model import CLASSES, A, make_model

from dreammpc.agent import EXPERT_KEYS, Agent
from dreammpc.algorithms import BMPC, TDMPC2
from dreammpc.data import Replay
from dreammpc.models import BMPCModel
from dreammpc.nn.pixels import SHIFT
from dreammpc.planning import make_planner

B, H = 8, 3


def make_replay(obs: str = "pixels", plans: bool = False) -> Replay:
    """One long episode in which a frame is as bright as the reward that follows it, whatever is done."""
    generator = torch.Generator().manual_seed(1)
    reward = torch.rand(1, 81, 1, generator=generator)
    pixels = (reward * 255).to(torch.uint8)[..., None, None].expand(1, 81, 3, 64, 64)
    state = torch.randn(1, 81, 5, generator=generator)
    seen = {"pixels": pixels, "observation": state}
    content = {key: value[:, :-1] for key, value in seen.items()}
    content["action"] = torch.rand(1, 80, A, generator=generator) * 2 - 1
    content["is_init"] = torch.arange(80).view(1, 80, 1) == 0
    after = {key: value[:, 1:] for key, value in seen.items()}
    content["next"] = {
        **after,
        "reward": reward[:, :-1],
        "terminated": torch.zeros(1, 80, 1, dtype=torch.bool),
    }
    if plans:
        zeros = torch.zeros(1, 80, A)
        content["expert"] = {"mean": zeros, "std": zeros + 1, "value": zeros[..., :1]}
    model = make_model(obs=obs)
    replay = Replay(80, 1, H, B, 0, EXPERT_KEYS if plans else (), obs_keys=model.obs_keys)
    replay.extend(TensorDict(content, [1, 80]))
    return replay


def make_algorithm(cls, obs="pixels", **settings):
    planner, bmpc = make_planner("dream_mpc", A), cls is BMPCModel
    agent = Agent(make_model(cls, obs), planner, 1.0, record=bmpc)
    algorithm = (BMPC if bmpc else TDMPC2)(agent, **settings)
    optimizers = algorithm.configure_optimizers()
    algorithm.optimizers = lambda: optimizers
    algorithm.manual_backward = lambda loss: loss.backward()
    return algorithm


@pytest.mark.parametrize("cls", CLASSES)
def test_the_loss_reads_the_shift_and_draws_nothing(cls):
    algorithm, replay = make_algorithm(cls), make_replay(plans=cls is BMPCModel)
    # Frames with something to see, so that a shift shows.
    batch = replay.sample()
    noise = torch.randint(256, batch["pixels"].shape, dtype=torch.uint8)
    batch["pixels"], batch["next", "pixels"] = noise, noise.flip(0)
    draws = algorithm.draw(batch)
    assert draws.shift.shape == ((H + 1) * B, 2) and draws.shift.min() >= 0 and draws.shift.max() <= 2 * SHIFT

    def loss(shift):
        state = torch.get_rng_state()
        value = algorithm.model_loss(algorithm.model, batch, draws._replace(shift=shift), algorithm.coef)[0]
        assert torch.equal(state, torch.get_rng_state())
        return value.item()

    still = torch.full_like(draws.shift, SHIFT)
    assert loss(draws.shift) == loss(draws.shift) != loss(still)
    assert loss(still) == pytest.approx(loss(None), rel=1e-6)
    for rows in (slice(None, B), slice(B, None)):  # the first images and the next ones both move
        moved = still.clone()
        moved[rows] = draws.shift[rows]
        assert loss(moved) != loss(still)


def test_every_shift_is_drawn_and_none_without_pixels():
    algorithm, batch = make_algorithm(CLASSES[0]), make_replay().sample()
    drawn = torch.cat([algorithm.draw(batch).shift for _ in range(40)])
    counts = torch.stack([torch.bincount(drawn[:, i], minlength=7) for i in (0, 1)])
    assert counts.shape == (2, 7) and (counts > 100).all()


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("obs", ["pixels", "both"])
def test_one_training_step_moves_the_whole_encoder(cls, obs):
    plans = cls is BMPCModel
    algorithm, replay = make_algorithm(cls, obs), make_replay(obs, plans)
    algorithm.write_back = replay.update
    before = {name: p.detach().clone() for name, p in algorithm.model.encoder.named_parameters()}
    metrics = [algorithm.training_step(replay.sample(), i) for i in range(10)][-1]
    assert all(value.isfinite() for value in metrics.values())
    for name, parameter in algorithm.model.encoder.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    if plans:  # the tenth update planned anew, from stacks, and wrote back
        assert "reanalyze/moved" in metrics
        assert (replay.rows(0, 80)["expert", "std"] != 1).any()


@pytest.mark.parametrize("obs", ["pixels", "both"])
def test_images_are_centred_once_before_the_first_update(obs):
    replay, batches = make_replay(obs), []

    def begin(algorithm):
        algorithm._trainer = SimpleNamespace(strategy=SimpleNamespace(reduce=lambda mean, reduce_op: mean))
        batches.append(replay.sample())
        algorithm.on_train_batch_start(batches[-1], 0)
        return algorithm.model.encoder.conv

    algorithm = make_algorithm(CLASSES[0], obs)
    conv = begin(algorithm)
    frames = batches[0]["next", "pixels"].flatten(0, 1).unflatten(1, (3, 3))
    assert torch.allclose(conv.centre, frames.float().mean((0, 1)) / 255)
    centre = conv.centre.clone()
    assert torch.equal(begin(algorithm).centre, centre)  # the next batch
    again = make_algorithm(CLASSES[0], obs)
    again.model.load_state_dict(algorithm.model.state_dict())
    assert torch.equal(begin(again).centre, centre)  # a training that goes on
    assert not torch.equal(begin(make_algorithm(CLASSES[0], obs)).centre, centre)

"""Updates from frames: the shift's place among the draws, what is learned, reanalyze on stacks."""

from types import SimpleNamespace

import pytest
import torch
from frames import CLASSES, B, H, make_algorithm, make_replay

from dreammpc.models import BMPCModel
from dreammpc.nn.pixels import SHIFT


@pytest.mark.parametrize("cls", CLASSES)
def test_the_loss_reads_the_shift_and_draws_nothing(cls):
    algorithm, replay = make_algorithm(cls), make_replay(plans=cls is BMPCModel)
    # Frames with something to see, so that a shift shows.
    batch = replay.sample()
    noise = torch.randint(256, batch["pixels"].shape, dtype=torch.uint8)
    batch["pixels"], batch["next", "pixels"] = noise, noise.flip(0)
    draws = algorithm.sample_noise(batch)
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
    drawn = torch.cat([algorithm.sample_noise(batch).shift for _ in range(40)])
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
def test_images_are_centered_once_before_the_first_update(obs):
    replay, batches = make_replay(obs), []

    def begin(algorithm):
        algorithm._trainer = SimpleNamespace(strategy=SimpleNamespace(reduce=lambda mean, reduce_op: mean))
        batches.append(replay.sample())
        algorithm.on_train_batch_start(batches[-1], 0)
        return algorithm.model.encoder.conv

    algorithm = make_algorithm(CLASSES[0], obs)
    conv = begin(algorithm)
    frames = batches[0]["next", "pixels"].flatten(0, 1).unflatten(1, (3, 3))
    assert torch.allclose(conv.center, frames.float().mean((0, 1)) / 255)
    center = conv.center.clone()
    assert torch.equal(begin(algorithm).center, center)  # the next batch
    again = make_algorithm(CLASSES[0], obs)
    again.model.load_state_dict(algorithm.model.state_dict())
    assert torch.equal(begin(again).center, center)  # a training that goes on
    assert not torch.equal(begin(make_algorithm(CLASSES[0], obs)).center, center)

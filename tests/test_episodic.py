"""Episodes that end: windows of every row, masked losses by hand, termination in planning."""

import math

import pytest
import torch
from feeds import Writer
from tensordict import TensorDict
from toy_models import random_bmpc, random_latent, random_tdmpc2
from updates import A, B, H, bmpc_draws, has_gradient, make_draws, slices

from dreammpc.algorithms import bmpc, tdmpc2
from dreammpc.algorithms.losses import action_mask
from dreammpc.algorithms.update_settings import UpdateSettings
from dreammpc.data import Replay
from dreammpc.planning.imagination import Imagination, Objective

COEF = UpdateSettings().coefficients
LENGTHS = [1, 2, 3, 3]
"""Valid steps of the four slices; the first two end by termination, the third by a time limit."""


def cut_batch(garbage: float = 0.0) -> TensorDict:
    """Slices of `LENGTHS`; rows past an end are moved by `garbage`."""
    batch = slices(terminated=[(0, 0), (1, 1)])
    valid = torch.arange(H) < torch.tensor(LENGTHS).unsqueeze(1)
    past = garbage * (~valid).unsqueeze(-1)
    for key in ("observation", "action", ("next", "observation"), ("next", "reward")):
        batch[key] = batch[key] + past
    batch["next", "terminated"] |= past != 0
    batch["valid"] = valid.unsqueeze(-1)
    return batch


# --- windows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_envs", "capacity", "steps"), [(1, 1000, 90), (3, 100, 33), (3, 100, 171)])
@pytest.mark.parametrize("window", [1, 3, 6])
def test_every_row_is_at_every_position_equally_often(num_envs, capacity, steps, window):
    """Also where an episode (2 to 9 steps) is shorter than the window, and over the ring's seam."""
    writer, replay = Writer(num_envs), Replay(capacity, num_envs, window, 64, ragged=True)
    for _ in range(steps):
        replay.extend(writer.batch(1))
    held = set(writer.history[-replay.capacity :])
    counts = {(row, t): 0 for row in held for t in range(window) if (row[0], row[1], row[2] - t) in held}
    batches = math.ceil(50 * len(held) / 64)
    for _ in range(batches):
        sample = replay.sample()
        who, valid = sample["observation"].int().tolist(), sample["valid"].squeeze(-1)
        assert sample.shape == valid.shape == (64, window) and valid.dtype == torch.bool
        assert valid[:, 0].all() and (valid[:, 1:] <= valid[:, :-1]).all()
        ends = sample["next", "terminated"].squeeze(-1)
        assert not (valid[:, 1:] & ends[:, :-1]).any()
        for rows, mask in zip(who, valid.tolist(), strict=True):
            for t in range(window):
                b, e, s = rows[0]
                assert mask[t] == ((b, e, s + t) in held)  # the window is as long as the episode allows
                if mask[t]:
                    assert rows[t] == [b, e, s + t]
                    counts[(b, e, s + t), t] += 1
    expected = 64 * batches / len(held)
    for t in range(window):  # counts of one position are those of distinct starts: nearly independent
        at = [count for (_, position), count in counts.items() if position == t]
        chi2 = sum((count - expected) ** 2 / expected for count in at)
        assert abs(chi2 - len(at)) < 5 * math.sqrt(2 * len(at))


def test_terminations_have_the_share_of_their_rows():
    writer, replay = Writer(2, shortest=1, longest=2), Replay(1000, 2, 3, 4096, ragged=True)
    for _ in range(200):
        replay.extend(writer.batch(1))
    sample = replay.sample()
    ends, valid = sample["next", "terminated"].squeeze(-1), sample["valid"].squeeze(-1)
    last = {(b, e): s for b, e, s in writer.history}  # of the very last episodes the end may be missing
    closed = {row for row in writer.history if row[2] == last[row[:2]]} - set(writer.history[-2:])
    for t in range(3):
        rows = [row for row in closed if row[2] >= t]
        share = (ends & valid)[:, t].float().mean().item()
        assert share == pytest.approx(len(rows) / 400, abs=5 * math.sqrt(0.25 / 4096))
    assert not (ends & valid)[:, 2].any()  # no episode has three steps


def test_restored_ragged_windows_are_the_same():
    writer, replay = Writer(2), Replay(100, 2, 3, 64, ragged=True)
    for _ in range(70):
        replay.extend(writer.batch(1))
    other = Replay(100, 2, 3, 64, seed=9, ragged=True)
    other.restore([replay.rows(replay.written - len(replay), replay.written)], replay.state_dict())
    mine, theirs = replay.sample(), other.sample()
    for key in ("observation", "valid"):
        assert torch.equal(mine[key], theirs[key])


# --- losses --------------------------------------------------------------------------------------------


def test_which_states_can_be_acted_from():
    assert action_mask(slices()) is None
    # Slice 2 is cut to two steps by a time limit: the state after them counts, that of a termination not.
    batch = cut_batch()
    batch["valid"][2, 2] = False
    assert action_mask(batch).t().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


def one_slice(batch, b, draws, steps):
    """Slice `b` alone, cut to its `steps`, with its own draws: what the losses say without any mask."""
    rows = torch.arange(steps) * B + b
    mask = draws.dropout[:, rows]
    own = draws._replace(target_noise=draws.target_noise[rows], dropout=mask)
    return batch[b : b + 1, :steps].exclude("valid"), own


@pytest.mark.parametrize("name", ["tdmpc2", "bmpc"])
def test_masked_model_losses_are_those_of_the_cut_slices(name):
    module = {"tdmpc2": tdmpc2, "bmpc": bmpc}[name]
    model = {"tdmpc2": random_tdmpc2, "bmpc": random_bmpc}[name](episodic=True, discount=0.9)
    draws = {"tdmpc2": make_draws, "bmpc": bmpc_draws}[name]()
    batch = cut_batch()
    loss, zs, metrics = module.model_loss(model, batch, draws, COEF)
    total, parts, targets = 0.0, {}, 0.0
    for b, steps in enumerate(LENGTHS):
        alone, rollout, more = module.model_loss(model, *one_slice(batch, b, draws, steps), COEF)
        torch.testing.assert_close(zs[: steps + 1, b], rollout[:, 0])
        total += alone * steps / (B * H)  # a mean over its own steps; here over all B·H
        for key, value in more.items():
            parts[key] = parts.get(key, 0) + value * steps / (B * H)
        targets += more["value/target"] * steps / sum(LENGTHS)
    torch.testing.assert_close(loss, total)
    assert set(parts) == set(metrics)
    for key in metrics:
        torch.testing.assert_close(metrics[key], targets if key == "value/target" else parts[key])


def test_masked_termination_loss_by_hand():
    model = random_tdmpc2(episodic=True)
    for parameter in (model.termination.linears[-1].weight, model.termination.linears[-1].bias):
        torch.nn.init.zeros_(parameter)
    metrics = tdmpc2.model_loss(model, cut_batch(), make_draws(), COEF)[2]
    # Four first steps, three second, two third ones, each worth log 2, of B·H.
    expected = math.log(2) * (4 * 1 + 3 * 0.5 + 2 * 0.25) / 12
    assert metrics["loss/termination"].item() == pytest.approx(expected, rel=1e-5)


def gradients(model, loss) -> list[torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_nothing_is_learned_from_past_an_end():
    """Losses and gradients do not change when the rows there do; nor does what the policy learns."""
    results = []
    for garbage in (0.0, 3.0):
        model, other, batch = random_tdmpc2(episodic=True), random_bmpc(episodic=True), cut_batch(garbage)
        loss, zs, _ = tdmpc2.model_loss(model, batch, make_draws(), COEF)
        found = [loss, *gradients(model, loss)]
        arguments = make_draws(), torch.ones(()), COEF, 0.1, action_mask(batch)
        loss, scale, metrics = tdmpc2.policy_loss(model, zs, *arguments)
        found += [loss, scale, *metrics.values(), *gradients(model, loss)]
        loss, zs, _ = bmpc.model_loss(other, batch, bmpc_draws(), COEF)
        found += [loss, *gradients(other, loss)]
        valid = batch["valid"].squeeze(-1).t()
        expert = torch.where(valid.unsqueeze(-1), 0.3, 0.3 + garbage).expand(H, B, A)
        arguments = expert, torch.full_like(expert, 0.4), torch.ones(()), COEF, 0.1, valid.float()
        loss, scale, metrics = bmpc.policy_loss(other, zs[:-1], *arguments)
        found += [loss, scale, *metrics.values(), *gradients(other, loss)]
        results.append([tensor.detach() for tensor in found])
    for clean, dirty in zip(*results, strict=True):
        torch.testing.assert_close(dirty, clean)


def test_masked_policy_losses_by_hand():
    """Equal terms everywhere: the masked loss is the whole one times the share of weight that is left."""
    kept = (4 * 1 + 3 * 0.5 + 2 * 0.25) / (4 * 1.75)
    valid = cut_batch()["valid"].squeeze(-1).t().float()
    model, other = random_tdmpc2(), random_bmpc()
    z = torch.rand(1, 1, 16).expand(H, B, 16)
    draws = make_draws()._replace(policy_noise=torch.ones(H * B, A))
    whole, masked = (
        tdmpc2.policy_loss(model, z, draws, torch.ones(()), COEF, 0.1, mask)[0] for mask in (None, valid)
    )
    assert masked.item() == pytest.approx(kept * whole.item(), rel=1e-5)
    expert = torch.full((H, B, A), 0.2)
    whole, masked = (
        bmpc.policy_loss(other, z, expert, expert, torch.ones(()), COEF, 0.1, mask)[0]
        for mask in (None, valid)
    )
    assert masked.item() == pytest.approx(kept * whole.item(), rel=1e-5)


def test_whole_slices_learn_alike_with_and_without_a_mask():
    batch, draws = slices(terminated=[(0, 2)]), make_draws()
    masked = batch.clone().set("valid", torch.ones(B, H, 1, dtype=torch.bool))
    results = [tdmpc2.model_loss(random_tdmpc2(episodic=True), b, draws, COEF) for b in (batch, masked)]
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_masked_losses_compile_to_one_graph():
    model, batch, draws = random_tdmpc2(episodic=True), cut_batch(), make_draws()
    compiled = torch.compile(tdmpc2.model_loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(model, batch, draws, COEF)[0], tdmpc2.model_loss(model, batch, draws, COEF)[0]
    )


# --- planning ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [random_tdmpc2, random_bmpc])
def test_j_counts_what_comes_after_by_the_chance_of_surviving(make):
    """J by hand: D_0 = 1, D_{t+1} = D_t·γ·(1 - c(z_{t+1})), and its gradient by finite differences."""
    model = make(episodic=True, discount=0.9).double()
    latent, objective = random_latent(make(), 2).double(), Objective()
    torch.manual_seed(0)
    actions = (torch.rand(2, 3, H, A, dtype=torch.float64) - 0.5).requires_grad_()
    imagination = Imagination(model)
    found = imagination.score(latent, actions, objective).objective
    with torch.no_grad():
        for b in range(2):
            for n in range(3):
                z, left, total = latent[b : b + 1], 1.0, 0.0
                for t in range(H):
                    action = actions[b, n, t][None]
                    after = model.step(z, action)
                    total += left * model.outcome(z, action, after).reward.item()
                    left *= 0.9 * (1 - torch.sigmoid(model.termination(after["z"])).item())
                    z = after
                total += left * model.value(z, imagination.mode(z)).mean().item()
                assert found[b, n].item() == pytest.approx(total, rel=1e-4)
    found.sum().backward()
    assert has_gradient(model.termination)

    def j(moved):
        with torch.no_grad():
            return imagination.score(latent, moved, objective).objective.sum().item()

    step = torch.zeros_like(actions)
    step[1, 2, 0, 1] = 1e-2
    slope = (j(actions + step) - j(actions - step)) / 2e-2
    assert actions.grad[1, 2, 0, 1].item() == pytest.approx(slope, rel=0.02)

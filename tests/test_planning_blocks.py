"""Plans that are followed for several steps, decisions that hold for several, horizons without a value."""

import dataclasses
import itertools

import pytest
import torch
from plans import A, small
from plans import plan as make_plan
from tensordict import TensorDict
from toy_models import random_bmpc, random_latent, random_tdmpc2

from dreammpc.agent import Agent
from dreammpc.algorithms import BMPC
from dreammpc.interfaces import UsageError
from dreammpc.models import SimulatorModel
from dreammpc.planning import PLANNERS, Imagination, make_planner
from dreammpc.planning.blocks import make_blocks, num_decisions
from dreammpc.planning.contract import check_planner

STAGED = sorted(set(PLANNERS) - {"policy"})
CPU = torch.device("cpu")


# --- blocks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["hold", "linear", "cubic"])
@pytest.mark.parametrize(("horizon", "block"), [(3, 2), (4, 4), (7, 3), (9, 4), (20, 5)])
def test_decisions_become_actions_and_back(interpolation, horizon, block):
    blocks, count = (
        make_blocks(horizon, block, interpolation, CPU),
        num_decisions(horizon, block, interpolation),
    )
    decisions = 0.5 * torch.rand(2, 4, count, A) - 0.25
    actions = blocks.actions(decisions)
    assert actions.shape == (2, 4, horizon, A)
    if interpolation == "hold":
        assert torch.equal(actions, decisions.repeat_interleave(block, 2)[:, :, :horizon])
    else:
        knots = range(0, horizon, block)
        torch.testing.assert_close(actions[:, :, list(knots)], decisions[:, :, : len(knots)])
    torch.testing.assert_close(blocks.fit(actions), decisions)
    torch.testing.assert_close(blocks.actions(torch.full_like(decisions, 0.3)), torch.full_like(actions, 0.3))


def test_splines_by_hand():
    """Three knots, four steps apart: a line between them, and the cubic Hermite spline through them."""
    knots = torch.tensor([[0.0], [0.4], [-0.4]])
    linear, cubic = (make_blocks(9, 4, how, CPU).actions(knots)[:, 0] for how in ("linear", "cubic"))
    torch.testing.assert_close(linear, torch.tensor([0, 0.1, 0.2, 0.3, 0.4, 0.2, 0, -0.2, -0.4]))
    slopes = (0.4, -0.2, -0.8)
    for t in range(9):
        i, s = min(t // 4, 1), t / 4 - min(t // 4, 1)
        p, q, m, n = *knots[i : i + 2, 0].tolist(), *slopes[i : i + 2]
        value = (2 * s**3 - 3 * s**2 + 1) * p + (s**3 - 2 * s**2 + s) * m + (3 * s**2 - 2 * s**3) * q
        assert cubic[t].item() == pytest.approx(value + (s**3 - s**2) * n, abs=1e-6)


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize(("horizon", "block"), [(4, 2), (6, 4), (8, 3), (9, 4)])
def test_a_straight_line_stays_one(interpolation, horizon, block):
    """Also where the last knot, which is the last action, is nearer than the others."""
    blocks, line = (
        make_blocks(horizon, block, interpolation, CPU),
        torch.linspace(-0.9, 0.9, horizon)[:, None],
    )
    torch.testing.assert_close(blocks.actions(blocks.fit(line)), line)


def test_the_spread_of_decisions_is_that_of_actions():
    blocks = make_blocks(7, 3, "cubic", CPU)
    std = torch.tensor([[0.01], [0.02], [0.03]])
    actions = blocks.actions(std * torch.randn(50_000, 3, 1, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(actions.std(0), blocks.spread(std), rtol=0.02, atol=0)


@pytest.mark.parametrize("interpolation", ["hold", "linear", "cubic"])
def test_decisions_shift_by_steps_and_not_by_blocks(interpolation):
    blocks = make_blocks(9, 4, interpolation, CPU)
    decisions = 0.2 * torch.randn(2, 3, num_decisions(9, 4, interpolation), A)
    steps = torch.tensor([0, 4])
    moved = blocks.shifted(decisions, steps)
    torch.testing.assert_close(moved[0], decisions[0])  # no time has passed
    torch.testing.assert_close(moved[1, :, :2], decisions[1, :, 1:])  # a whole block
    torch.testing.assert_close(moved[1, :, 2], decisions[1, :, 2])  # the last action repeats


@pytest.mark.parametrize("name", STAGED)
def test_planners_choose_only_what_blocks_can_say(name):
    model = random_tdmpc2(A)
    planner = resized(name, horizon=5, action_block=2)
    result = make_plan(planner, model, random_latent(model, 2))
    again = make_plan(planner, model, random_latent(model, 2), result.state)
    for found in (result, again):
        assert found.mean.shape == found.std.shape == (2, 5, A)
        assert torch.equal(found.mean[:, 0], found.mean[:, 1]) and torch.equal(
            found.mean[:, 2], found.mean[:, 3]
        )
        assert not torch.equal(found.mean[:, 1], found.mean[:, 2])
        value = Imagination(model).score(
            random_latent(model, 2), found.mean[:, None], planner.composed().objective
        )
        if name != "dream_mpc_paper":  # whose value is of before the last step
            torch.testing.assert_close(found.value, value.objective[:, 0], atol=1e-4, rtol=1e-4)


def resized(name, **settings):
    return dataclasses.replace(small(name), **settings)


# --- following a plan -----------------------------------------------------------------------------------


class Counting:
    """A model that counts its batches of steps."""

    def __init__(self, model):
        self.model, self.action_dim, self.steps = model, model.action_dim, 0

    def step(self, latent, action):
        self.steps += 1
        return self.model.step(latent, action)

    def __getattr__(self, name):
        return getattr(self.model, name)


@pytest.mark.parametrize("name", STAGED)
def test_a_plan_is_followed_and_then_made_anew(name):
    model = random_tdmpc2(A)
    planner = small(name, replan_every=2)
    latents = [random_latent(model, 3, seed) for seed in range(4)]
    first = make_plan(planner, model, latents[0])
    counting = Counting(model)
    second = make_plan(planner, counting, latents[1], first.state)
    assert counting.steps == planner.horizon  # of the one sequence that is followed
    torch.testing.assert_close(second.action, first.mean[:, 1].clamp(-1, 1))
    torch.testing.assert_close(second.mean, torch.stack([first.mean[:, 1]] * 2, 1))  # H = 2
    torch.testing.assert_close(second.std[:, 0], first.std[:, 1])
    objective = planner.composed().objective
    value = Imagination(model).score(latents[1], second.mean.unsqueeze(1), objective).objective[:, 0]
    torch.testing.assert_close(second.value, value)
    third = make_plan(planner, counting, latents[2], second.state)
    assert counting.steps > 2 * planner.horizon
    assert third.state["age"].tolist() == [[1.0]] * 3 and not torch.equal(third.mean[:, 0], second.mean[:, 1])


@pytest.mark.parametrize("name", ["dream_mpc", "mppi", "icem"])
def test_following_k_steps_shifts_the_carry_by_k(name):
    """The next plan is that of a planner without `replan_every` whose carry was shifted by hand."""
    model, latent = random_tdmpc2(A), random_latent(random_tdmpc2(A), 2)
    settings = {"horizon": 4} | ({"optimizer": "adam"} if name == "dream_mpc" else {})
    plain, planner = resized(name, **settings), resized(name, replan_every=3, **settings)
    first = make_plan(planner, model, latent)
    state = first.state
    for _ in range(2):
        state = make_plan(planner, model, latent, state).state
    by_hand = make_plan(plain, model, latent).state
    for key, value in by_hand.items():
        assert torch.equal(value, first.state[key])
        if value.shape[-2:] == (4, A):  # by two; the planner shifts by the third
            by_hand[key] = value[..., [2, 3, 3, 3], :]
    expected, got = make_plan(plain, model, latent, by_hand, 5), make_plan(planner, model, latent, state, 5)
    torch.testing.assert_close(got.mean, expected.mean)
    torch.testing.assert_close(got.value, expected.value)


def test_each_row_counts_for_itself():
    """A row that is reset in mid-plan plans; the others follow, and are not disturbed."""
    model = random_tdmpc2(A)
    planner = small("dream_mpc", replan_every=2)
    latent = random_latent(model, 3)
    first = make_plan(planner, model, latent)
    mixed = torch.where(torch.tensor([True, False, False]), planner.initial_state(3), first.state)
    result = make_plan(planner, model, latent, mixed, 9)
    torch.testing.assert_close(result.action[1:], first.mean[1:, 1])
    torch.testing.assert_close(result.action[0], make_plan(planner, model, latent, seed=9).action[0])
    assert result.state["age"].tolist() == [[1.0], [2.0], [2.0]]
    assert result.diagnostics["evaluations"][0] > result.diagnostics["evaluations"][1] == planner.horizon


@pytest.mark.parametrize("name", STAGED)
def test_planners_with_blocks_and_followed_plans_keep_the_contract(name):
    """As one graph, too: what is compiled makes every plan and chooses rows."""
    interpolation = "cubic" if name in ("mppi", "dream_mpc") else "hold"
    timing = {"horizon": 4, "replan_every": 2, "action_block": 2, "interpolation": interpolation}
    planner = resized(name, terms=("action_rate",), **timing)
    check_planner(planner, compile="eager" if interpolation == "cubic" else None)


@pytest.mark.parametrize("mode", [False, "recorded"])
def test_an_agent_follows_plans(mode):
    """Whether they are recorded or not, and environments that are reset apart; no plan, no random numbers."""
    planner = make_planner("dream_mpc", A, replan_every=3)
    agent = Agent(random_tdmpc2(A), planner, compile=mode)
    carry, actions, plan = agent.initial_carry(2), [], None
    for t in range(7):
        torch.manual_seed(t)
        before = torch.get_rng_state()
        obs = TensorDict({"observation": torch.full((2, 5), 0.1 * t)}, [2])
        is_init = torch.tensor([[t == 0], [t in (0, 4)]])
        result, carry = agent.step(obs, carry, is_init)
        followed = t not in (0, 3, 4, 6)
        assert torch.equal(before, torch.get_rng_state()) == followed
        actions.append(result.action)
        if t in (1, 2):
            torch.testing.assert_close(result.action, plan.mean[:, t])
        plan = result if t == 0 else plan
    assert torch.stack(actions).isfinite().all()


# --- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"replan_every": 4}, "replan_every must be at most the horizon, 3, got 4"),
        ({"action_block": 4}, "action_block must be at most the horizon, 3, got 4"),
        ({"replan_every": 0}, "replan_every must be at least 1, got 0"),
        (
            {"interpolation": "cube"},
            "interpolation must be one of hold, linear, cubic, got 'cube'; did you mean cubic?",
        ),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, words):
    with pytest.raises(UsageError) as error:
        make_planner("mppi", A, **settings)
    assert str(error.value) == f"planner 'mppi': {words}"


def test_an_expert_makes_every_plan_anew():
    agent = Agent(random_bmpc(A), make_planner("dream_mpc", A, replan_every=2), record=True)
    with pytest.raises(UsageError, match=r"cannot be BMPC's expert with replan_every=2"):
        BMPC(agent)
    agent = Agent(random_bmpc(A), make_planner("dream_mpc", A, horizon=8, action_block=4), record=True)
    with pytest.raises(UsageError, match=r"^algorithm.reanalyze_horizon=3: action_block must be at most"):
        BMPC(agent)


# --- long horizons without a value ----------------------------------------------------------------------


def double_integrator() -> SimulatorModel:
    """Position and velocity on a line, 0.1 s a step; the cost is the squared distance from rest at zero."""

    def step(x, a):
        velocity = x[:, 1:] + 0.1 * a
        return torch.cat([x[:, :1] + 0.1 * velocity, velocity], 1)

    return SimulatorModel(2, 1, step, cost=lambda x, a, y: y.square().sum(-1) + 0.01 * a.square().sum(-1))


def best_cost(start: float, steps: int) -> float:
    """The least cost of `steps` steps from rest at `start` with |a| <= 1, by projected gradient descent."""
    reach = torch.zeros(steps, steps, 2, dtype=torch.float64)  # what a_j does to the state after step i
    for i, j in itertools.product(range(steps), range(steps)):
        if j <= i:
            reach[i, j] = torch.tensor([0.01 * (i - j + 1), 0.1])
    matrix = reach.permute(0, 2, 1).reshape(2 * steps, steps)
    offset = torch.tensor([start, 0.0], dtype=torch.float64).repeat(steps)
    hessian = matrix.t() @ matrix + 0.01 * torch.eye(steps, dtype=torch.float64)
    rate, a = 1 / torch.linalg.eigvalsh(hessian)[-1], torch.zeros(steps, dtype=torch.float64)
    ahead, momentum = a, 1.0
    for _ in range(2000):
        new = (ahead - rate * (hessian @ ahead + matrix.t() @ offset)).clamp(-1, 1)
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead, a, momentum = new + (momentum - 1) / following * (new - a), new, following
    return ((matrix @ a + offset).square().sum() + 0.01 * a.square().sum()).item()


LONG = {
    "dream_mpc": {"iterations": 5, "step_rule": "line_search", "reuse": 0.9},
    "dream_mpc_paper": {"iterations": 5, "step_size": 0.1, "reuse": 0.9},
    "grad_mpc": {"iterations": 20, "step_rule": "backtracking", "step_size": 1.0},
    "mppi": {},
    "cem": {},
    "icem": {},
    "cem_grad": {},
    "random_shooting": {"predictive": True},
}


@pytest.mark.parametrize("name", STAGED)
def test_a_long_horizon_needs_no_value(name):
    """Forty steps of a double integrator from rest at 1, planned 30 ahead, every fifth step."""
    more = {"horizon": 30, "terminal_value": False, "replan_every": 5, "action_block": 3}
    planner, model = make_planner(name, 1, **more, **LONG[name]), double_integrator()
    x, state, cost = torch.tensor([[1.0, 0.0]]), planner.initial_state(1), 0.0
    torch.manual_seed(0)
    for _ in range(40):
        with torch.no_grad():
            result = planner.plan(Imagination(model), model.latent(x), state)
            latent = model.step(model.latent(x), result.action)
        x, state = latent["x"], result.state
        cost += (x.square().sum() + 0.01 * result.action.square().sum()).item()
    assert cost < 1.15 * best_cost(1.0, 40)

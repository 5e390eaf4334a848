"""Objective terms and constraints: what they cost, in every planner, by hand, and what is refused."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from plans import A, small
from plans import plan as make_plan
from tensordict import TensorDict
from toy_models import LinearQuadratic, random_bmpc, random_latent, random_tdmpc2

from dreammpc.agent import Agent
from dreammpc.algorithms.bmpc import replan
from dreammpc.configuration.planners import build_planner
from dreammpc.interfaces import UsageError
from dreammpc.models import SimulatorModel
from dreammpc.planning import (
    PLANNERS,
    TERMS,
    ActionRate,
    Composed,
    Constraint,
    Energy,
    Goal,
    Imagination,
    Objective,
    PolicyRollouts,
    Tracking,
    Uncertainty,
    make_planner,
    register_term,
)
from dreammpc.planning.contract import ContractError, check_planner, check_term

nan = float("nan")
STAGED = sorted(set(PLANNERS) - {"policy"})
OBSERVATION = (0.2, -0.4)
EXAMPLES = {
    "action_rate": ActionRate(),
    "energy": Energy(),
    "goal": Goal(goal=OBSERVATION),
    "tracking": Tracking(reference=(OBSERVATION, (0.5, 0.5), (0.0, 1.0))),
    "uncertainty": Uncertainty(),
}


def point(**more) -> SimulatorModel:
    """x' = x + a; nothing is rewarded."""
    return SimulatorModel(2, 2, lambda x, a: x + a, reward=lambda x, a, x2: 0 * x[:, 0] + 0 * a[:, 0], **more)


def score(model, latent, actions, **objective):
    return Imagination(model).score(latent, actions, Objective(**objective)).objective


# --- terms ----------------------------------------------------------------------------------------------


def test_terms_by_hand():
    model = random_tdmpc2(A)
    latent, actions = random_latent(model, 3), torch.rand(3, 4, 3, A) * 2 - 1
    without = score(model, latent, actions)
    energy = score(model, latent, actions, terms=(Energy(weight=0.5),))
    torch.testing.assert_close(energy, without - 0.5 * actions.square().sum((-2, -1)))
    change = (actions[:, :, 1:] - actions[:, :, :-1]).square().sum((-2, -1))  # an episode's first step
    rate = score(model, latent, actions, terms=(ActionRate(weight=2.0), Energy(weight=0.5)))
    torch.testing.assert_close(rate, energy - 2.0 * change)


@pytest.mark.parametrize("name", sorted({*STAGED} - {"dream_mpc_paper"}))  # whose value is of before a step
def test_the_last_executed_action_counts_from_the_second_step_on(name):
    """A heavy cost on change keeps the action where the agent says that it was."""
    planner = make_planner(name, 2, terms=[{"name": "action_rate", "weight": 1000.0}], horizon=2)
    model = point()
    latent, last = model.latent(torch.zeros(3, 2)), torch.tensor([[0.6, -0.3]]).expand(3, 2)
    torch.manual_seed(0)
    first = planner.plan(Imagination(model, last), latent, planner.initial_state(3))
    again = planner.plan(Imagination(model, last), latent, first.state)
    start = score(model, latent, first.mean.unsqueeze(1), terms=planner.terms)
    torch.testing.assert_close(first.value, start[:, 0], atol=1e-3, rtol=1e-4)
    change = (again.mean[:, 0] - last).square().sum(-1) + (again.mean[:, 1] - again.mean[:, 0]).square().sum(
        -1
    )
    torch.testing.assert_close(again.value, -1000 * change, atol=1e-2, rtol=1e-3)


def test_a_goal_is_reached_by_its_term_alone():
    model = point()
    for name in ("mppi", "cem_grad", "cem"):
        goal = {"name": "goal", "goal": [0.9, -1.2], "weight": 20.0, "at": "along"}
        planner = make_planner(name, 2, horizon=3, terms=[goal])
        x, state = torch.zeros(1, 2), planner.initial_state(1)
        torch.manual_seed(0)
        for _ in range(12):
            with torch.no_grad():
                result = planner.plan(Imagination(model), model.latent(x), state)
            x, state = x + result.action, result.state
        assert (x - torch.tensor([[0.9, -1.2]])).abs().max() < 0.15, name


def test_a_reference_is_followed_as_time_goes_by():
    rows = [[0.3 * t, 0.0] for t in range(8)]
    model = point()
    planner = make_planner("cem", 2, horizon=2, terms=[{"name": "tracking", "reference": rows}])
    x, state = torch.zeros(1, 2), planner.initial_state(1)
    torch.manual_seed(0)
    for t in range(1, 8):
        result = planner.plan(Imagination(model), model.latent(x), state)
        x, state = x + result.action, result.state
        assert (x - torch.tensor([rows[t]])).abs().max() < 0.15
    assert state["time"].item() == 7


@pytest.mark.parametrize("term", EXAMPLES)
def test_the_built_in_terms_keep_the_contract(term):
    model = point()
    latent = model.latent(torch.randn(4, 2, generator=torch.Generator().manual_seed(0)))
    check_term(EXAMPLES[term], model, latent)


@pytest.mark.parametrize("name", ["dream_mpc", "mppi"])
def test_a_planner_with_terms_and_constraints_keeps_the_contract(name):
    constraint = {"term": "energy", "limit": 0.5, "treatment": "lagrangian"}
    check_planner(small(name, terms=("action_rate",), constraints=(constraint,)))


def test_without_a_terminal_value_j_is_the_rewards():
    model = random_tdmpc2(A)
    latent, actions = random_latent(model, 2), torch.rand(2, 3, 3, A) * 2 - 1
    model.value = None  # not asked
    found = score(model, latent, actions, terminal_value=False)
    assert found.isfinite().all()


@pytest.mark.parametrize("weight", [0.0, 0.6])
def test_a_lambda_return_mixes_the_returns_after_each_step(weight):
    model, horizon = random_tdmpc2(A), 3
    latent, actions = random_latent(model, 2), torch.rand(2, 4, horizon, A) * 2 - 1
    shorter = [score(model, latent, actions[:, :, :h]) for h in (1, 2, 3)]
    found = score(model, latent, actions, value_lambda=weight)
    expected = (1 - weight) * (shorter[0] + weight * shorter[1]) + weight**2 * shorter[2]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(score(model, latent, actions[:, :, :1], value_lambda=weight), shorter[0])


def test_nothing_is_carried_or_reported_for_terms_where_there_are_none():
    plain, more = make_planner("mppi", A), make_planner("mppi", A, terms=["energy"])
    assert set(more.initial_state(1).keys()) - set(plain.initial_state(1).keys()) == {"last_action", "time"}


def test_terms_from_plain_settings():
    planner = build_planner({"name": "mppi", "terms": ["energy", {"name": "action_rate", "weight": 0.5}]}, A)
    assert planner.terms == (Energy(), ActionRate(weight=0.5))
    target = {"_target_": "dreammpc.planning.Energy", "weight": 2}
    assert build_planner({"name": "mppi", "terms": [target]}, A).terms == (Energy(weight=2.0),)
    assert hash(planner) == hash(make_planner("mppi", A, terms=planner.terms))


@dataclass(frozen=True)
class Wrong:
    """A term that is broken in one of several ways."""

    how: str
    weight: float = 1.0

    def __call__(self, trajectory):
        cost = trajectory.actions.square().sum((0, -1))
        if self.how == "writes":
            trajectory.actions.zero_()
        answers = {"shape": cost.unsqueeze(-1), "nan": cost * torch.nan, "detached": cost.detach()}
        if self.how == "position":
            return trajectory.latents["pos"].sum((0, -1))
        return {**answers, "rows": cost * cost.mean(), "writes": cost}[self.how]


@pytest.mark.parametrize("how", ["shape", "nan", "detached", "rows", "writes"])
def test_broken_terms_break_the_contract(how):
    with pytest.raises(ContractError, match=r"^Wrong"):
        check_term(Wrong(how))


def test_a_term_that_reads_a_latent_of_its_own_is_told_whose_model_it_was_checked_in():
    hint = r" \(in a linear model of the checker's own; give yours as model=\)$"
    with pytest.raises(ContractError, match=r"KeyError: .*pos.* at test_objectives.py, line \d+" + hint):
        check_term(Wrong("position"))
    with pytest.raises(ContractError, match=r"KeyError: .*pos.* at test_objectives.py, line \d+$"):
        check_term(Wrong("position"), random_tdmpc2(A))


@pytest.mark.parametrize(
    ("how", "planner", "words"),
    [
        ("shape", "mppi", r"^term Wrong must give \[\d+\], a cost per candidate, got \[\d+, 1\]$"),
        ("nan", "mppi", r"^term Wrong gives NaN for candidates whose rewards are finite$"),
        ("detached", "dream_mpc", r"^term Wrong passes no gradient on to the actions"),
    ],
)
def test_a_broken_term_is_named_in_one_line(how, planner, words):
    model = LinearQuadratic(A)
    with pytest.raises(UsageError, match=words):
        make_plan(make_planner(planner, A, terms=(Wrong(how),)), model, random_latent(model, 2))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"terms": "energy"}, "terms must be of type tuple"),
        ({"terms": ["enrgy"]}, "unknown term 'enrgy'; did you mean energy?"),
        ({"terms": [{"name": "os.system"}]}, "terms: expected a name, or _target_ with a dotted path"),
        ({"terms": [{"name": "energy", "wait": 1}]}, "term 'energy' has no setting 'wait'"),
        ({"terms": [{"name": "goal"}]}, "goal must be an observation"),
        ({"terms": [{"name": "goal", "goal": [0, nan]}]}, "term 'goal': goal must be a number, got nan"),
        ({"terms": [{"name": "energy", "weight": nan}]}, "term 'energy': weight must be a number, got nan"),
        ({"terms": [Energy(weight=nan)]}, "term energy: weight must be a finite number, got nan"),
        ({"constraints": [{"term": "energy", "limit": nan}]}, "constraint: limit must be a number, got nan"),
        ({"constraints": [{"term": "energy", "limit": 1e999}]}, "constraint on energy: limit must be finite"),
        ({"terms": [3]}, "term '3' is not an objective term"),
        ({"constraints": ["energy"]}, "constraints: expected {term: …, limit: …}, got 'energy'"),
        ({"constraints": [{"term": "energy", "treatment": "hope"}]}, "constraint: treatment must be one of"),
        (
            {"constraints": [{"term": "energy", "treatment": "reject"}]},
            "constraints: energy has the treatment",
        ),
    ],
)
def test_bad_settings_are_refused_in_one_line(given, words):
    with pytest.raises(ValueError) as error:
        make_planner("dream_mpc", A, **given)
    assert str(error.value).startswith(f"planner 'dream_mpc': {words}") and "\n" not in str(error.value)


def test_a_goal_of_another_observation_space_is_refused():
    model = random_tdmpc2(A)
    planner = make_planner("mppi", A, terms=[{"name": "goal", "goal": [0.0, 1.0]}])
    with pytest.raises(UsageError, match=r"^term goal: its goal is no observation of the model: .*\[B, 5\]"):
        make_plan(planner, model, random_latent(model, 1))


def test_a_class_that_is_no_term_is_not_registered():
    with pytest.raises(UsageError, match="has no field weight"):

        @register_term("mine")
        @dataclass(frozen=True)
        class Mine:
            def __call__(self, trajectory): ...


def test_bmpc_plans_anew_with_a_goal():
    """Reanalyze imagines with another policy, and a goal asks the model to observe."""
    goal = {"name": "goal", "goal": [0.0, 0.5, 0.0, 0.0, 1.0]}
    obs = TensorDict({"observation": torch.randn(4, 5)}, [4])
    result = replan(random_bmpc(A), make_planner("dream_mpc", A, terms=[goal]), obs)
    assert result.action.isfinite().all() and result.action.shape == (4, A)


# --- constraints ----------------------------------------------------------------------------------------


def planned(planner, model, times: int):
    """The last of so many plans in a row, for two environments at 0."""
    state = planner.initial_state(2)
    torch.manual_seed(0)
    for _ in range(times):
        with torch.no_grad():
            result = planner.plan(Imagination(model), model.latent(torch.zeros(2, 1)), state)
        state = result.state
    return result


def pulled() -> SimulatorModel:
    """One step, reward -(a - 0.9)²: without a constraint a is 0.9."""
    return SimulatorModel(1, 1, lambda x, a: x, cost=lambda x, a, x2: (a - 0.9).square().sum(-1))


@pytest.mark.parametrize("treatment", ["penalty", "lagrangian", "reject"])
@pytest.mark.parametrize("name", ["dream_mpc", "grad_mpc", "mppi", "cem", "icem", "cem_grad"])
def test_an_active_constraint_is_kept_where_its_exact_solution_is(name, treatment):
    """a² ≤ 0.25 and the nearest to 0.9 is a = 0.5."""
    if treatment == "reject" and name in ("dream_mpc", "grad_mpc", "cem_grad"):
        return
    constraint = {"term": "energy", "limit": 0.25, "treatment": treatment, "weight": 5.0}
    more = {"step_size": 0.2, "iterations": 10} if name in ("dream_mpc", "grad_mpc") else {}
    if name == "dream_mpc":
        more |= {"reuse": 0.9}
    if name == "grad_mpc":
        more |= {"step_rule": "backtracking"}
    planner = make_planner(name, 1, horizon=1, constraints=[constraint], **more)
    result = planned(planner, pulled(), 10)
    torch.testing.assert_close(result.mean, torch.full((2, 1, 1), 0.5), atol=0.08, rtol=0)
    g = (result.mean.square().sum((1, 2)) - 0.25).clamp(min=0)
    torch.testing.assert_close(result.diagnostics["violation"], g)
    torch.testing.assert_close(result.value, -(result.mean[:, 0, 0] - 0.9).square())  # J without the penalty
    assert ((result.state["multipliers"] > 0).any() == (treatment == "lagrangian")).item()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("rule", ["fixed", "normalized", "backtracking", "line_search"])
def test_steps_go_along_the_boundary_of_a_penalty(rule, optimizer):
    """|a|² ≤ 0.25 and the nearest to (0.9, -0.3): all meet the boundary elsewhere and go on."""
    target = torch.tensor([0.9, -0.3])
    model = SimulatorModel(1, 2, lambda x, a: x, cost=lambda x, a, x2: (a - target).square().sum(-1))
    constraint = {"term": "energy", "limit": 0.25, "treatment": "penalty", "weight": 50.0}
    how = {"step_rule": rule, "optimizer": optimizer, "step_size": 0.1, "iterations": 40}
    planner = make_planner("dream_mpc", 2, horizon=1, keep_policy=False, constraints=[constraint], **how)
    torch.manual_seed(0)
    with torch.no_grad():
        found = planner.plan(Imagination(model), model.latent(torch.zeros(1, 1)), planner.initial_state(1))
    ends = found.state["candidates"][0, :, 0]
    best = (0.5 * target / target.norm()).expand_as(ends)
    near = 0.13 if optimizer == "adam" else {"backtracking": 0.1, "line_search": 0.06}.get(rule, 1e-3)
    torch.testing.assert_close(ends, best, atol=near, rtol=0)


@dataclass(frozen=True)
class Largest:
    """The largest action of a plan."""

    weight: float = 1.0

    def __call__(self, trajectory):
        return trajectory.actions.abs().amax((0, 2))


@pytest.mark.parametrize("name", ["mppi", "cem", "icem"])
def test_rejection_finds_what_no_sample_keeps(name):
    """Ten actions of at most 0.3, as near as can be to 0.9: no one draws such a plan by chance."""
    constraint = {"term": Largest(), "limit": 0.3, "treatment": "reject"}
    small = {"num_samples": 128, "num_elites": 16, "iterations": 8}
    planner = make_planner(name, 1, horizon=10, terminal_value=False, constraints=[constraint], **small)
    result = planned(planner, pulled(), 4)
    assert result.diagnostics["violation"].tolist() == [0, 0]
    assert result.mean.mean() > 0.1


def test_multipliers_are_those_of_the_exact_solution_and_reset_by_mask():
    """At a = 0.5 the gradient of J is 0.8, that of a² is 1: λ = 0.8."""
    constraint = Constraint("energy", limit=0.25, treatment="lagrangian", weight=2.0)
    planner = make_planner("grad_mpc", 1, horizon=1, constraints=(constraint,), step_size=0.1, iterations=60)
    model, state = pulled(), planner.initial_state(2)
    assert state["multipliers"].shape == (2, 5, 1)
    for seed in range(12):
        torch.manual_seed(seed)
        result = planner.plan(Imagination(model), model.latent(torch.zeros(2, 1)), state)
        state = result.state
    torch.testing.assert_close(state["multipliers"].mean(1), torch.full((2, 1), 0.8), atol=0.05, rtol=0)
    mixed = torch.where(torch.tensor([True, False]), planner.initial_state(2), state)
    assert mixed["multipliers"][0].abs().max() == 0 and mixed["multipliers"][1].min() > 0


def test_what_cannot_be_kept_is_least_violated_and_said_once(caplog):
    planner = make_planner(
        "cem", 1, horizon=1, constraints=[{"term": "energy", "limit": -1.0, "weight": 7.0}]
    )
    model = pulled()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            result = make_plan(planner, model, model.latent(torch.zeros(1, 1)))
    assert result.diagnostics["violation"].item() == pytest.approx(1.0, abs=0.05)
    assert len([r for r in caplog.records if "exceeds the limit -1" in r.getMessage()]) == 1


def test_a_constraint_on_a_term_with_a_list_of_settings():
    @dataclass(frozen=True)
    class Beyond:
        limits: list
        weight: float = 1.0

        def __call__(self, trajectory):
            return trajectory.actions.square().sum((0, -1)) + sum(self.limits)

    planner = make_planner("cem", 1, horizon=1, constraints=[{"term": Beyond([1.0, 2.0]), "limit": 0.0}])
    result = make_plan(planner, pulled(), pulled().latent(torch.zeros(1, 1)))
    assert result.diagnostics["violation"].item() == pytest.approx(3.0, abs=0.05)


@dataclass(frozen=True)
class Heads:
    """Costs 0, 1, 2 and 3 of four heads."""

    weight: float = 1.0

    def __call__(self, trajectory):
        return torch.arange(4, device=trajectory.time.device) + 0 * trajectory.actions[0, :, :1]


@pytest.mark.parametrize(("risk", "expected"), [("mean", 1.5), ("worst", 3.0), ("cvar", 2.5)])
def test_the_risk_of_an_ensemble(risk, expected):
    model = LinearQuadratic(A)
    constraint = Constraint(Heads(), risk=risk, level=0.5)
    planner = Composed(A, PolicyRollouts(), objective=Objective(constraints=(constraint,)))
    result = make_plan(planner, model, random_latent(model, 2))
    assert result.diagnostics["violation"].tolist() == [expected] * 2
    check_term(Heads(), heads=True)


@pytest.mark.parametrize("risk", ["worst", "cvar"])
def test_a_risk_over_heads_wants_heads(risk):
    model = LinearQuadratic(A)
    planner = make_planner("cem", A, constraints=[{"term": "energy", "risk": risk}])
    with pytest.raises(
        UsageError, match=rf"^constraint on energy: risk={risk} .* \[M, K\]; this one gives \[M\]$"
    ):
        make_plan(planner, model, random_latent(model, 2))


def test_the_page_runs(tmp_path):
    """Its Python blocks as one program; the names in its table of terms are those that exist."""
    page = (Path(__file__).parent.parent / "docs/objectives.md").read_text(encoding="utf-8")
    program = "".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    try:
        exec(program, {"__name__": "page"})
        assert "late_energy" in TERMS
    finally:
        TERMS._things.pop("late_energy", None)
    table = page.partition("| term | cost |")[2].partition("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(TERMS)


@pytest.mark.parametrize("compile", [False, "recorded"])
def test_an_agent_acts_with_terms_and_constraints(compile):
    """Also as its plans are recorded; the last action that terms see is the executed one, with its noise."""
    constraint = {"term": "energy", "limit": 0.2, "treatment": "lagrangian"}
    terms = [{"name": "action_rate", "weight": 3.0}]
    planner = make_planner("dream_mpc", A, terms=terms, constraints=[constraint])
    agent = Agent(random_tdmpc2(A), planner, noise_scale=0.5, compile=compile)
    carry, actions = agent.initial_carry(2), []
    torch.manual_seed(0)
    for t in range(4):
        obs = TensorDict({"observation": torch.full((2, 5), 0.1 * t)}, [2])
        result, carry = agent.step(obs, carry, torch.full((2, 1), t == 0))
        actions.append(result.action)
        assert torch.equal(carry["prev_action"], result.action)
    assert carry["plan"]["time"].tolist() == [[4.0], [4.0]]
    assert torch.stack(actions).isfinite().all()

"""How often MPPI draws another action because a rounding error was another: an agent against itself.

    python benchmarks/rounding.py [--agents NAME,…] [--steps 60]

The second agent has every weight changed by about one rounding of float32 (6e-8 of it). Both are given
the same observations and the same random numbers; each carries its own plans. Prints, per agent: steps whose
actions are equal to 0.001; J; the spread of the elites' J; the gap between neighbors; and how far J of the
executed plans was apart where actions differed. Medians; of J the mean.
"""

import argparse
import copy
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from dreammpc.agent import Agent
from dreammpc.cli.deploy_commands import task_env
from dreammpc.deploy import check
from dreammpc.planning import MPPI, SampleElite
from dreammpc.planning.factory import make_planner
from dreammpc.trained import loading, locate

ROUNDING = 6e-8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", default="cartpole-swingup,cheetah-run,cup-catch")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [one(name, options.steps) for name in options.agents.split(",")]
    print(check.table(*rows, head=("agent", "equal steps", "J", "elites' spread", "gap", "apart", "at most")))


def one(name: str, steps: int) -> tuple[str, ...]:
    """A line of the table."""
    model, facts = loading.load_model(locate(name), "cpu")
    other = copy.deepcopy(model)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1 + ROUNDING * torch.randn(weight.shape, generator=draw))
    agents = [Agent(one, make_planner("mppi", model.action_dim)).eval() for one in (model, other)]
    env = task_env(facts, 0)
    record = check.play_agent(agents[0], env, 0, steps)
    env.close()
    scores: list[Tensor] = []
    played = [play(agent, record, scores) for agent in agents]
    elites = torch.stack(scores[: len(record)])
    away, apart = (played[0][k] - played[1][k] for k in (0, 1))
    differ = away.abs().amax(1) >= check.CLOSE
    found = (
        played[0][1].abs().mean(),
        (elites[:, 0] - elites[:, -1]).median(),
        (elites[:, :-1] - elites[:, 1:]).median(),
        apart.abs()[differ].median() if differ.any() else 0.0,
        apart.abs().max(),
    )
    return name, f"{100 * float(1 - differ.float().mean()):.0f} %", *(f"{float(x):.1e}" for x in found)


def play(agent: Agent, record: check.Record, scores: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Actions [T, A] and J [T] on a record's observations; adds J of the elites [E] of each step."""
    assert isinstance(agent.planner, MPPI)
    drawn, actions, values = SampleElite.__call__, [], []

    def noted(self: SampleElite, context: Any, state: Any) -> Any:
        scores.append(state.scores[0].clone())
        return drawn(self, context, state)

    torch.manual_seed(record.seed)
    carry, first = agent.initial_carry(1), torch.ones(1, 1, dtype=torch.bool)
    SampleElite.__call__ = noted  # type: ignore[method-assign]
    try:
        for t in range(len(record)):
            seen = {key: torch.from_numpy(kept[t : t + 1]) for key, kept in record.observations.items()}
            plan, carry = agent.step(TensorDict(seen, [1]), carry, first)
            first = torch.zeros_like(first)
            actions.append(plan.action[0])
            values.append(plan.value[0])
    finally:
        SampleElite.__call__ = drawn  # type: ignore[method-assign]
    return torch.stack(actions), torch.stack(values)


if __name__ == "__main__":
    main()

"""dream_mpc's policy rollouts scored beside the step sizes that it tries, against in a rollout of their own.

    python benchmarks/riding.py --agents --decisions 100
    python benchmarks/riding.py --sizes nano 5M --batch 1 64 --threads 1

With `--agents` every agent that comes with the package plays; at each decision both ways plan from the same
latent, warm start and random numbers: prints how far their actions differ. Else times both in turns: median
CPU milliseconds of a plan, and the median of the pairs' ratios. `apart` is what dream_mpc did before.
"""

import argparse
import statistics
import time
from dataclasses import dataclass, replace

import torch
from planners import random_model
from tensordict import TensorDict

from dreammpc.agent import Agent
from dreammpc.envs import make_env
from dreammpc.evaluation.episodes import run_episodes
from dreammpc.models import SIZES
from dreammpc.planning import DreamMPC, GradientAscent, Imagination
from dreammpc.trained.library import agent_names
from dreammpc.trained.loading import load_model


class Apart(GradientAscent):
    """Leaves the policy rollouts to the selection, which scores them in a batch of their own."""

    def _backtrack(self, context, state, actions, scores, *rest):
        known = scores[:, :0] if state.policy_scores is None else state.policy_scores
        without = replace(state, policy_scores=known)  # as if the rollouts' scores were known
        actions, scores, after = super()._backtrack(context, without, actions, scores, *rest)
        return actions, scores, replace(after, policy_scores=state.policy_scores)


@dataclass(frozen=True)
class ApartMPC(DreamMPC):
    """dream_mpc as it was."""

    def composed(self):
        composed = super().composed()
        (stage,) = composed.refine
        return replace(composed, refine=(Apart(**vars(stage)),))


@dataclass(frozen=True)
class Both(DreamMPC):
    """Plans in both ways and notes how they differ."""

    def plan(self, imagination, latent, state):
        random = torch.get_rng_state()
        before = ApartMPC(self.action_dim).plan(imagination, latent, state)
        torch.set_rng_state(random)
        plan = super().plan(imagination, latent, state)
        GAPS.append((plan.action - before.action).abs().max().item())
        assert (plan.diagnostics["evaluations"] == before.diagnostics["evaluations"]).all()
        return plan


GAPS: list[float] = []


def compare_agents(decisions: int) -> None:
    print("| agent | decisions | same bits | largest difference of an action |\n|---|---:|---:|---:|")
    every: list[float] = []
    for name in agent_names():
        GAPS.clear()
        model, facts = load_model(f"agent:{name}")
        config = facts["config"]
        env = make_env(facts["task"], 1, action_repeat=config["env"]["action_repeat"])
        run_episodes(env, Agent(model, Both(model.action_dim)), 0, should_stop=lambda: len(GAPS) > decisions)
        every += GAPS
        print(f"| {name} | {len(GAPS)} | {sum(gap == 0 for gap in GAPS)} | {max(GAPS):.1e} |", flush=True)
    print(f"| all | {len(every)} | {sum(gap == 0 for gap in every)} | {max(every):.1e} |")


def compare_times(size: str, batch: int, rounds: int) -> str:
    model = random_model(size, torch.device("cpu"))
    obs = TensorDict({"observation": torch.randn(batch, model.obs_dim)}, [batch])
    latent = model.observe(obs, None, None)
    ways = ApartMPC(model.action_dim), DreamMPC(model.action_dim)
    state = ways[0].plan(Imagination(model), latent, ways[0].initial_state(batch)).state
    pairs = []
    for _ in range(rounds + 3):
        pair = []
        for planner in ways:
            began = time.process_time()
            planner.plan(Imagination(model), latent, state)
            pair.append(1e3 * (time.process_time() - began))
        pairs.append(pair)
    pairs = pairs[3:]
    apart, riding = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    return f"| {size} | {batch} | {apart:.2f} | {riding:.2f} | {ratio:.2f} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--agents", action="store_true", help="compare actions, not times")
    parser.add_argument("--decisions", type=int, default=100, help="of each agent")
    parser.add_argument("--sizes", nargs="+", default=["nano", "5M"], choices=list(SIZES))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64], help="environments")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.agents:
        compare_agents(args.decisions)
    else:
        print("| size | environments | apart, ms | riding, ms | times faster |\n|---|---:|---:|---:|---:|")
        with torch.no_grad():
            for each in args.sizes:
                for batch in args.batch:
                    print(compare_times(each, batch, args.rounds), flush=True)

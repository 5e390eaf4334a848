"""What plans are worth in the simulator, from the same states: J's gain over the policy beside the real one.

    python benchmarks/real_gain.py walker-walk/tdmpc2-seed1 cup-catch/bmpc-seed1 --states 20

States are those of an episode of the bare policy, evenly spaced. From each of them every planner plans once,
without a warm start. The simulator is then put into that state, the plan's H actions are executed, and the
policy goes on for `--after` decisions: the discounted rewards are the plan's real return. (What follows is
left out; it would weigh γ^(H + after).) The same is done with `--samples` noisy rollouts of the policy.

Three tables. The first has what each planner's plan gains over the policy's own rollout, by J and in reality,
with standard errors over states; and the same of four choices among the rollouts: the best by J, the best if
the model's dynamics and rewards were the real ones (the value at the end is that of the observed state), the
best if its value were the real one, and the best in reality (`oracle`). `oracle, repeated` is what is left of
the latter's gain with noise of 0.01 on all actions, hence of what was there to be found and not chance.

The second says which part of J ranks wrongly: rank correlations over the candidates of a state (means over
states) of J, of its rewards and of its value with what they stand for. V at the real end is the value of the
state that the simulator ended in. `twin` is the ceiling: the real return of a candidate with that of the same
candidate with that noise; what is not repeated there no smooth function can rank. The standard deviations
over candidates add up what J is off by: J - real = (rewards - real rewards) + (V at the imagined end - V at
the real end) + (V at the real end - real rest).

The third follows the model along the horizon: the latent's error over how far the latent moved (1 is as bad
as a model in which nothing moves), the error of the reward, and that of the value because of the latent's.

Tasks whose episodes never terminate, and whose simulator can be put into a state.
"""

import argparse
import warnings
from collections import defaultdict

import torch
from scipy.stats import spearmanr
from tensordict import TensorDict
from torch import Tensor

from dreammpc import make_env
from dreammpc.configuration.planners import build_planner
from dreammpc.planning import Imagination
from dreammpc.trained.loading import load_model

TWIN = 0.01
"""Standard deviation of the noise on a twin's actions."""
HEADS = (
    "| agent | plan | gain by J | real gain | share of states with a gain |\n|---|---|---:|---:|---:|",
    "| agent | J | rewards | value | V at the real end | J, real dynamics | twin | std of the real return |"
    " of J | error of the rewards | of the end | of V |\n|---|" + "---:|" * 11,
    "| agent | latent, step 1 to H | reward | value |\n|---|---:|---:|---:|",
)


def put(env, state: dict) -> None:
    """All rows of `env` into the state of an environment of one row."""
    rows = env.num_envs
    buffers = {
        key: value[:1].repeat(rows, *[1] * (value.ndim - 1)) for key, value in state["buffers"].items()
    }
    env.set_state({"envs": state["envs"] * rows, "seeds": state["seeds"] * rows, "buffers": buffers})


def encode(model, obs):
    """The latent [B] of observed vectors."""
    size = obs.shape[0]
    actions = torch.zeros(size, model.action_dim)
    return model.observe(obs.select("observation"), actions, model.initial_belief(size))


def step(env, action):
    return env.step(TensorDict({"action": action}, env.batch_size))["next"]


def value(model, latent) -> Tensor:
    """The mean of the value heads [B]."""
    return model.value(latent, Imagination(model).mode(latent)).mean(-1)


def real(env, model, plans: Tensor, after: int) -> tuple[Tensor, list]:
    """Of plans [R, H, A], then the policy: rewards [R, H + after], and the latents [R] of steps 1 to H."""
    rewards, latents, horizon = [], [], plans.shape[1]
    for t in range(horizon + after):
        action = plans[:, t] if t < horizon else Imagination(model).mode(encode(model, obs))  # noqa: F821
        obs = step(env, action)
        rewards.append(obs["reward"].squeeze(-1).float())
        if t < horizon:
            latents.append(encode(model, obs))
    return torch.stack(rewards, 1), latents


def foreseen(model, latent, plans: Tensor) -> tuple[Tensor, list]:
    """Of plans [R, H, A] in the model: rewards [R, H] and the latents [R] of steps 1 to H."""
    rewards, latents = [], [latent.expand(len(plans))]
    for action in plans.unbind(1):
        latents.append(model.step(latents[-1], action))
        rewards.append(model.outcome(latents[-2], action, latents[-1]).reward)
    return torch.stack(rewards, 1), latents[1:]


@torch.no_grad()
def measure(agent: str, planners: list[str], options: argparse.Namespace) -> tuple[str, str, str]:
    """The agent's lines of the three tables."""
    model, facts = load_model(agent)
    torch.manual_seed(options.seed)
    made = {name: build_planner({"name": name}, model.action_dim) for name in planners}
    count = 1 + len(made) + options.samples
    main, trial = make_env(facts["task"], 1), make_env(facts["task"], 2 * count)
    main.set_seed(options.seed)
    trial.set_seed(options.seed)
    obs, horizon = main.reset(), made[planners[0]].horizon
    trial.reset()
    last = main.max_episode_steps - horizon - options.after
    wanted = {int(i * last / options.states) for i in range(options.states)}
    discounts = model.discount ** torch.arange(horizon + options.after)
    gains, ranks, spreads, errors = (defaultdict(list) for _ in range(4))
    for t in range(last):
        latent, imagination = encode(model, obs), Imagination(model)
        if t in wanted:
            noise = torch.randn(1, 1 + options.samples, horizon, model.action_dim)
            noise[:, 0] = 0
            rollouts = imagination.propose(latent, noise)[0]
            plans = [each.plan(imagination, latent, each.initial_state(1)).mean for each in made.values()]
            candidates = torch.cat([rollouts[:1], *plans, rollouts[1:]])
            twins = (candidates + TWIN * torch.randn_like(candidates)).clamp(-1, 1)
            put(trial, main.get_state())
            seen, reached = real(trial, model, torch.cat([candidates, twins]), options.after)
            predicted, imagined = foreseen(model, latent, candidates)
            weighed = seen * discounts
            worth, twin = weighed.sum(1).split(count)
            first, rest = weighed[:count, :horizon].sum(1), weighed[:count, horizon:].sum(1)
            reached = [each[:count] for each in reached]
            rewards = predicted @ discounts[:horizon]
            ends = model.discount**horizon * value(model, imagined[-1])
            real_ends = model.discount**horizon * value(model, reached[-1])
            j = rewards + ends
            for i, name in enumerate(made, 1):
                gains[name].append((j[i] - j[0], worth[i] - worth[0]))
            samples = torch.tensor([0, *range(1 + len(made), count)])
            choices = {
                "best sample by J": j,
                "by J with the real dynamics": first + real_ends,
                "by J with the real value": rewards + rest,
                "oracle": worth,
            }
            for name, scores in choices.items():
                best = samples[scores[samples].argmax()]
                gains[name].append((j[best] - j[0], worth[best] - worth[0]))
            gains["oracle, repeated"].append((j[best] - j[0], twin[best] - twin[0]))
            pairs = (j, worth), (rewards, first), (ends, rest), (real_ends, rest), (first + real_ends, worth)
            for name, (one, other) in enumerate((*pairs, (worth, twin))):
                ranks[name].append(torch.tensor(spearmanr(one, other).statistic))
            parts = worth, j, rewards - first, ends - real_ends, real_ends - rest
            for name, part in enumerate(parts):
                spreads[name].append(part.var())
            for told, here in zip(imagined, reached, strict=True):
                moved = (here["z"] - latent["z"]).square().sum()
                errors["latent"].append(((told["z"] - here["z"]).square().sum() / moved).sqrt())
                errors["value"].append((value(model, told) - value(model, here)).abs().mean())
            errors["reward"].extend((predicted - seen[:count, :horizon]).abs().mean(0))
        obs = step(main, imagination.mode(latent))
    lines = [f"| {agent} | {name} | {' | '.join(gain_cells(both))} |" for name, both in gains.items()]
    told = [f"{torch.stack(found).nanmean():.2f}" for found in ranks.values()]
    told += [f"{torch.stack(found).mean().sqrt():.3f}" for found in spreads.values()]
    along = [
        ", ".join(f"{error:.3f}" for error in torch.stack(errors[name]).view(-1, horizon).mean(0))
        for name in ("latent", "reward", "value")
    ]
    return "\n".join(lines), f"| {agent} | {' | '.join(told)} |", f"| {agent} | {' | '.join(along)} |"


def gain_cells(both: list) -> list[str]:
    """Mean ± standard error of the gain by J and of the real one, and how often the latter is one."""
    found = torch.tensor(both)
    errors = found.std(0) / len(found) ** 0.5
    cells = [f"{mean:+.3f} ± {error:.3f}" for mean, error in zip(found.mean(0), errors, strict=True)]
    return [*cells, f"{(found[:, 1] > 0).float().mean():.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("agents", nargs="+")
    parser.add_argument("--planners", nargs="+", default=["dream_mpc", "dream_mpc_paper", "mppi"])
    parser.add_argument("--states", type=int, default=20)
    parser.add_argument("--after", type=int, default=100, help="decisions of the policy that follow a plan")
    parser.add_argument("--samples", type=int, default=16, help="rollouts of the policy with noise")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "An input array is constant")  # no rank: left out of the mean
    found = [measure(agent, options.planners, options) for agent in options.agents]
    for head, lines in zip(HEADS, zip(*found, strict=True), strict=True):
        print("\n".join([head, *lines, ""]))


if __name__ == "__main__":
    main()

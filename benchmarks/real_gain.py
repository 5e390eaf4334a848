"""What plans are worth in the simulator, from the same states: J's gain over the policy beside the real one.

    python benchmarks/real_gain.py walker-walk/tdmpc2-seed1 cup-catch/bmpc-seed1 --states 20

States are those of an episode of the bare policy, evenly spaced. From each of them every planner plans once,
without a warm start. The simulator is then put into that state, the plan's H actions are executed, and the
policy goes on for `--after` decisions: the discounted rewards are the plan's real return. (What follows is
left out; it would weigh γ^(H + after).) The same is done with `--samples` noisy rollouts of the policy.

Of each planner it is printed what its plan gains over the policy's own rollout, by the model's J and in
reality, with standard errors over states; and the same of the sample that is best by J, and of the one
that is best in reality (`oracle`), which says what was there to be found. Below stand the rank
correlation of J and real returns over the candidates of a state, and by how much the model's rewards and
its last value are off along the policy's rollout.

Tasks whose episodes never terminate, and whose simulator can be put into a state.
"""

import argparse
import statistics
from collections import defaultdict

import torch
from scipy.stats import spearmanr
from tensordict import TensorDict

from dreammpc import make_env
from dreammpc.configuration.planners import build_planner
from dreammpc.planning import Imagination, Objective
from dreammpc.trained.loading import load_model

PLAIN = Objective()
"""Rewards and the mean of the value heads."""


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


def real(env, model, plans: torch.Tensor, after: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of plans [R, H, A]: discounted rewards [R], the first H rewards [R, H], the value [R] after these."""
    rewards, horizon = [], plans.shape[1]
    for t in range(horizon + after):
        if t >= horizon:
            latent = encode(model, obs)  # noqa: F821 (of the step before)
            action = Imagination(model).mode(latent)
            if t == horizon:
                value = model.value(latent, action).mean(-1)
        else:
            action = plans[:, t]
        obs = step(env, action)
        rewards.append(obs["reward"].squeeze(-1).float())
    seen = torch.stack(rewards, 1)
    return seen @ model.discount ** torch.arange(horizon + after), seen[:, :horizon], value


def foreseen(model, latent, plan: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards [H] and the last value of a plan [1, H, A] in the model."""
    rewards = []
    for action in plan.unbind(1):
        after = model.step(latent, action)
        rewards.append(model.outcome(latent, action, after).reward)
        latent = after
    return torch.cat(rewards), model.value(latent, Imagination(model).mode(latent)).mean()


@torch.no_grad()
def measure(agent: str, planners: list[str], options: argparse.Namespace) -> None:
    model, facts = load_model(agent)
    torch.manual_seed(options.seed)
    made = {name: build_planner({"name": name}, model.action_dim) for name in planners}
    main, trial = make_env(facts["task"], 1), make_env(facts["task"], 1 + len(made) + options.samples)
    main.set_seed(options.seed)
    trial.set_seed(options.seed)
    obs, horizon = main.reset(), made[planners[0]].horizon
    trial.reset()
    last = main.max_episode_steps - horizon - options.after
    wanted = {int(i * last / options.states) for i in range(options.states)}
    gains, correlations, errors = defaultdict(list), [], defaultdict(list)
    for t in range(last):
        latent, imagination = encode(model, obs), Imagination(model)
        if t in wanted:
            noise = torch.randn(1, 1 + options.samples, horizon, model.action_dim)
            noise[:, 0] = 0
            rollouts = imagination.propose(latent, noise)[0]
            plans = [each.plan(imagination, latent, each.initial_state(1)).mean for each in made.values()]
            candidates = torch.cat([rollouts[:1], *plans, rollouts[1:]])
            j = imagination.score(latent, candidates[None], PLAIN).objective[0]
            put(trial, main.get_state())
            worth, rewards, value = real(trial, model, candidates, options.after)
            for i, name in enumerate(made, 1):
                gains[name].append((j[i] - j[0], worth[i] - worth[0]))
            samples = torch.tensor([0, *range(1 + len(made), len(candidates))])
            for name, scores in (("best sample by J", j), ("oracle", worth)):
                best = samples[scores[samples].argmax()]
                gains[name].append((j[best] - j[0], worth[best] - worth[0]))
            correlations.append(spearmanr(j, worth).statistic)
            predicted, end = foreseen(model, latent, candidates[:1])
            errors["reward"].append((predicted - rewards[0]).abs().mean())
            errors["value"].append(end - value[0])
        obs = step(main, imagination.mode(latent))
    for name, both in gains.items():
        cells = [
            f"{statistics.mean(x):+.3f} ± {statistics.stdev(x) / len(x) ** 0.5:.3f}" for x in columns(both)
        ]
        better = sum(float(x[1]) > 0 for x in both) / len(both)
        print(f"| {agent} | {name} | {' | '.join(cells)} | {better:.2f} |", flush=True)
    reward, value = torch.stack(errors["reward"]).mean(), torch.stack(errors["value"])
    print(
        f"{agent}: rank correlation {torch.tensor(correlations).nanmean():.2f}; along the policy's rollout"
        f" rewards are off by {reward:.4f}, the last value by {value.mean():+.3f} (mean),"
        f" {value.abs().mean():.3f} (absolute)\n"
    )


def columns(pairs: list) -> list[list[float]]:
    return [[float(value) for value in column] for column in zip(*pairs, strict=True)]


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
    print("| agent | plan | gain by J | real gain | share of states with a gain |\n|---|---|---:|---:|---:|")
    for agent in options.agents:
        measure(agent, options.planners, options)


if __name__ == "__main__":
    main()

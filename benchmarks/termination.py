"""How well an agent foresees that an episode ends: predicted terminations against actual ones.

    python benchmarks/termination.py runs/.../checkpoints/last.ckpt docs/termination.png --steps 4000

Plays with a planner, and with random actions, which end more episodes, and asks the model before every step
how probably it ends the episode: c(z') with z' imagined from the observation so many steps earlier, along the
actions that were taken. Prints a table and plots, left to right: predictions before an actual end; how often
an end came where one was predicted with a given probability (on the diagonal if the model is calibrated); the
share of ends that a threshold finds, over the share of other steps that it takes for ends.
"""

import argparse
import sys

import matplotlib
import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from dreammpc.agent import Agent
from dreammpc.configuration.assembly import build_env
from dreammpc.configuration.planners import build_planner
from dreammpc.configuration.schemas import EnvConfig
from dreammpc.data import make_collector
from dreammpc.interfaces import UsageError
from dreammpc.trained.loading import load_model

BINS = np.array([0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0])
BEFORE = 12


def play(agent: Agent, env, steps: int) -> TensorDictBase:
    """Transitions [B, T] of B·T = `steps` or a few more, in order."""
    collector = make_collector(env, agent)
    batches, frames = iter(collector), []
    while len(frames) * env.num_envs < steps:
        frames.append(next(batches).select("observation", "action", "is_init", "next"))
    collector.shutdown()
    return torch.cat(frames, 1)


@torch.no_grad()
def predict(model, data: TensorDictBase, ahead: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted probability and truth of termination, [M] each, for all steps with `ahead` in their episode.

    Args:
        data: transitions [B, T].
        ahead: imagined steps: 1 is from the observation just before.
    """
    size, steps = data.shape
    obs = TensorDict({"observation": data["observation"].flatten(0, 1)}, [size * steps])
    actions = data["action"].flatten(0, 1)
    latent = model.observe(obs, torch.zeros_like(actions), model.initial_belief(size * steps))
    z = latent["z"].unflatten(0, (size, steps))
    for t in range(ahead):
        left = steps - t
        pair = model.latent(z[:, :left].flatten(0, 1)), data["action"][:, t:].flatten(0, 1)
        z = model.step(*pair)["z"].unflatten(0, (size, left))
    episode = data["is_init"].squeeze(-1).cumsum(1)
    within = episode[:, ahead - 1 :] == episode[:, : steps - ahead + 1]
    probability = model.termination(z).squeeze(-1).sigmoid()
    actual = data["next", "terminated"].squeeze(-1)[:, ahead - 1 :]
    return probability[within].numpy(), actual[within].numpy()


def scores(probability: np.ndarray, actual: np.ndarray) -> dict[str, float]:
    """Recall and precision at 0.5, Brier score, and that of always predicting the mean."""
    called = probability >= 0.5
    hits = float((called & actual).sum())
    return {
        "steps": len(actual),
        "ends": int(actual.sum()),
        "recall": hits / actual.sum() if actual.any() else float("nan"),
        "precision": hits / called.sum() if called.any() else float("nan"),
        "brier": float(np.square(probability - actual).mean()),
        "brier of the mean": float(actual.mean() * (1 - actual.mean())),
    }


def reliability(probability: np.ndarray, actual: np.ndarray) -> list[tuple[float, float, int]]:
    """Mean prediction, share of ends and number of steps in each of `BINS` that is not empty."""
    index = np.clip(np.digitize(probability, BINS) - 1, 0, len(BINS) - 2)
    found = [(i, index == i) for i in range(len(BINS) - 1)]
    return [(probability[m].mean(), actual[m].mean(), int(m.sum())) for _, m in found if m.any()]


def before_the_end(model, data: TensorDictBase) -> list[np.ndarray]:
    """Predictions one step ahead, for each number of steps before an actual end (0: the step that ends)."""
    rows: list[list[float]] = [[] for _ in range(BEFORE)]
    for row in data.unbind(0):
        probability, actual = predict(model, row.unsqueeze(0), 1)
        since = 0
        for t, starts in enumerate(row["is_init"].squeeze(-1).tolist()):
            since = 0 if starts else since + 1
            if actual[t]:
                for back in range(min(BEFORE, since + 1)):
                    rows[back].append(probability[t - back])
    return [np.array(values) for values in rows]


def plot(path: str, title: str, before: list[np.ndarray], found: dict[str, tuple]) -> None:
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    shown = [(back, values) for back, values in enumerate(before) if len(values)]
    at = [-back for back, _ in shown]
    low, high = ([np.quantile(values, q) for _, values in shown] for q in (0.1, 0.9))
    left.plot(at, [values.mean() for _, values in shown], marker="o", ms=3, label="predicted, mean")
    left.fill_between(at, low, high, alpha=0.2, label="10 to 90 %")
    left.plot(at, [float(back == 0) for back in at], "k:", label="actual")
    left.set(title=title, xlabel="steps before the episode ended", ylabel="probability of an end")
    middle.plot([0, 1], [0, 1], "k:")
    for label, (probability, actual) in found.items():
        points = reliability(probability, actual)
        middle.plot(*np.array(points)[:, :2].T, marker="o", ms=3, label=label)
        thresholds = np.concatenate(
            [[0.0], np.unique(np.quantile(probability, np.linspace(0, 1, 200))), [1.01]]
        )
        recall = [(probability[actual] >= t).mean() for t in thresholds]
        alarms = [(probability[~actual] >= t).mean() for t in thresholds]
        right.plot(alarms, recall, label=label)
    middle.set(title="calibration", xlabel="predicted", ylabel="actual share")
    right.set(title="ends found", xlabel="share of other steps called ends", ylabel="recall")
    right.set_xlim(-0.01, 0.3)
    for axis in (left, middle, right):
        axis.set_ylim(-0.03, 1.03)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("picture")
    parser.add_argument("--planner", default="dream_mpc")
    parser.add_argument("--steps", type=int, default=4000, help="of each way to act")
    parser.add_argument("--noise-scale", type=float, default=1.0)
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--ahead", type=int, default=3)
    parser.add_argument("--seed", type=int, default=2000)
    options = parser.parse_args(arguments)
    model, facts = load_model(options.checkpoint)
    if model.termination is None:
        raise UsageError(f"checkpoint {options.checkpoint} has no termination head (algorithm.episodic)")
    agent = Agent(model, build_planner({"name": options.planner}, model.action_dim), options.noise_scale)
    repeat = facts["config"]["env"]["action_repeat"]
    played = {}
    for way in (options.planner, "random"):
        torch.manual_seed(options.seed)
        env = build_env(facts["task"], options.seed, EnvConfig(options.num_envs, repeat))
        agent.random = way == "random"
        played[way] = play(agent, env, options.steps)
    found = {}
    print("| actions | steps ahead | steps | ends | recall | precision | Brier | Brier of the mean |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for way, data in played.items():
        for ahead in range(1, options.ahead + 1):
            pair = predict(model, data, ahead)
            row = scores(*pair)
            cells = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()]
            print(f"| {way} | {ahead} | {' | '.join(cells)} |")
            if ahead in (1, options.ahead) and pair[1].any():
                found[f"{way}, {ahead} ahead"] = pair
    before = before_the_end(model, torch.cat(list(played.values())))
    plot(options.picture, facts["task"], before, found)


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"error: {error}")

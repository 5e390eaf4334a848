"""What an encoder of frames learns from random play, and whether it collapses.

    python benchmarks/encoder.py --task cartpole-swingup --updates 1500 --latent-dim 384
    python benchmarks/encoder.py --gray

Updates a TD-MPC2 agent on random transitions, without acting, and prints how far apart frames lie in its
latent (the mean standard deviation over frames; 0 is collapsed) and how much of each entry of the state a
ridge regression reads from it: R² on the last fifth of the frames, which neither updates nor regression saw.
"""

import argparse
from dataclasses import asdict

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from dreammpc.agent import Agent
from dreammpc.algorithms import TDMPC2
from dreammpc.data import Replay, make_collector
from dreammpc.envs import make_env
from dreammpc.models import SIZES, TDMPC2Model
from dreammpc.models.encoders import no_frames, with_frame
from dreammpc.planning import make_planner

HORIZON, RIDGE = 3, 3e-4


def play(task: str, steps: int, seed: int) -> TensorDictBase:
    """Random transitions [1, steps] with frames and state."""
    env = make_env(task, seed=seed, obs="both")
    state, action = (spec.shape[-1] for spec in (env.observation_spec["observation"], env.action_spec))
    agent = Agent(
        TDMPC2Model(state, action, obs="both", **asdict(SIZES["nano"])), make_planner("policy", action)
    )
    agent.random = True
    collector = make_collector(env, agent, steps)
    played = next(iter(collector))
    collector.shutdown()
    return played


def stacks(played: TensorDictBase) -> Tensor:
    """What an encoder sees before every action, bytes [T, 9, 64, 64]."""
    memory, seen = no_frames(1), []
    for step in played[0]:
        memory = with_frame(no_frames(1) if step["is_init"].any() else memory, step["pixels"][None])
        seen.append(memory["frames"][0])
    return torch.stack(seen)


def explained(z: Tensor, state: Tensor, train: int) -> Tensor:
    """R² [O] of `state` [T, O] given `z` [T, D]: fitted on the first `train` rows, on the others."""
    mean, std = state[:train].mean(0), state[:train].std(0) + 1e-6
    x, y = torch.cat([z, torch.ones(len(z), 1)], 1), (state - mean) / std
    weights = torch.linalg.solve(
        x[:train].T @ x[:train] + RIDGE * train * torch.eye(x.shape[1]), x[:train].T @ y[:train]
    )
    left = (y[train:] - x[train:] @ weights).square().mean(0)
    return 1 - left / y[train:].square().mean(0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="cartpole-swingup")
    parser.add_argument("--decisions", type=int, default=3000)
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--every", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--encoder-lr-scale", type=float, default=0.3)
    parser.add_argument("--latent-dim", type=int, default=SIZES["nano"].latent_dim)
    parser.add_argument(
        "--gray", action="store_true", help="images less gray, as published, not less their mean"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    played = play(options.task, options.decisions, options.seed)
    images, state, train = stacks(played), played[0]["observation"], int(0.8 * options.decisions)
    replay = Replay(train, 1, HORIZON, options.batch_size, options.seed, obs_keys=("pixels",))
    replay.extend(played[:, :train])

    torch.manual_seed(options.seed)
    size = {**asdict(SIZES["nano"]), "latent_dim": options.latent_dim}
    model = TDMPC2Model(0, played["action"].shape[-1], obs="pixels", **size)
    agent = Agent(model, make_planner("policy", model.action_dim))
    algorithm = TDMPC2(agent, lr=options.lr, encoder_lr_scale=options.encoder_lr_scale)
    optimizers = algorithm.configure_optimizers()
    algorithm.optimizers = lambda: optimizers
    algorithm.manual_backward = lambda loss: loss.backward()
    if not options.gray:
        model.encoder.conv.center.copy_(model.encoder.conv.mean_frame(images[:train]))

    print("| updates | std of the latent | consistency | mean R² | R² of each entry of the state |")
    print("|---:|---:|---:|---:|---|")
    metrics: dict[str, Tensor] = {}
    for update in range(options.updates + 1):
        if update % options.every == 0:
            with torch.no_grad():
                z = torch.cat(
                    [model.encode(TensorDict({"pixels": x}, [len(x)]))["z"] for x in images.split(200)]
                )
            found = explained(z, state, train)
            entries = ", ".join(f"{value:.2f}" for value in found)
            loss = f"{metrics['loss/consistency']:.1e}" if metrics else ""
            print(
                f"| {update} | {z.std(0).mean():.4f} | {loss} | {found.mean():.2f} | {entries} |", flush=True
            )
        with torch.autocast("cpu", torch.bfloat16):
            metrics = algorithm.training_step(replay.sample(), update)


if __name__ == "__main__":
    main()

"""Started by tests with `lightning run`: small trainings in one process or several.

replica_recipe.py FOLDER [updates]    trains on a toy environment until it is stopped, with checkpoints; with
                                      `updates`, first five updates of each algorithm on given batches
"""

import os
import signal
import sys
from pathlib import Path

import torch
from tensordict import TensorDict

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from drift import Drift
from toy_models import random_bmpc, random_tdmpc2

from dreammpc.agent import Agent
from dreammpc.algorithms import BMPC, TDMPC2
from dreammpc.data import Feed, Replay, make_collector
from dreammpc.envs import BatchedEnv
from dreammpc.planning import make_planner
from dreammpc.runtime.processes import end_with_parent
from dreammpc.training import Checkpoints, GracefulStop, make_trainer, seed_everything, world_size
from dreammpc.training.callbacks import Monitor

RANK, B, H, A = int(os.environ.get("RANK", 0)), 32, 3, 2
ALGORITHMS = {
    "tdmpc2": (TDMPC2, random_tdmpc2, "policy", {"scale_rate": 0.0}),
    "scaled": (TDMPC2, random_tdmpc2, "policy", {}),
    "bmpc": (BMPC, random_bmpc, "mppi", {"scale_rate": 0.0, "reanalyze_interval": 0}),
}
"""Running scales are percentiles of a batch, and those of a half are not those of the whole: off in two."""
CONFIG = {"steps": 10**6, "algorithm": {"name": "tdmpc2"}}
FACTS = {"task": "drift", "model": {"name": "toy"}, "config": CONFIG}


def build(name: str):
    """An algorithm whose model is another one on every rank: rank 0's must win."""
    cls, model, planner, more = ALGORITHMS[name]
    settings = {} if planner == "policy" else {"num_samples": 16, "num_elites": 4, "num_policy": 4}
    agent = Agent(model(seed=RANK), make_planner(planner, A, **settings), 1.0, record=name == "bmpc")
    return cls(agent, dropout=0.0, lr=1e-2, **more)


def whole_batch() -> TensorDict:
    draw = torch.randn
    after = {
        "observation": draw(B, H, 5),
        "reward": draw(B, H, 1) * 5,
        "terminated": torch.zeros(B, H, 1, dtype=torch.bool),
    }
    expert = {"mean": draw(B, H, A), "std": torch.rand(B, H, A) + 0.5, "value": draw(B, H, 1)}
    content = {"observation": draw(B, H, 5), "action": draw(B, H, A).clamp(-1, 1), "next": after}
    return TensorDict({**content, "expert": TensorDict(expert, [B, H])}, [B, H])


def updates(folder: Path) -> None:
    """Batches and draws are those of the whole; each process takes its rows of both."""
    size = B // world_size()
    mine = slice(RANK * size, (RANK + 1) * size)
    for name in ALGORITHMS:
        algorithm = build(name)
        torch.manual_seed(7)
        batches = [whole_batch() for _ in range(5)]
        draws = iter([algorithm.sample_noise(batch) for batch in batches])

        def draw(batch, draws=draws):
            whole = next(draws)
            noise = {
                field: value.unflatten(0, (-1, B))[:, mine].flatten(0, 1)
                for field, value in whole._asdict().items()
                if field.endswith("noise")
            }
            return whole._replace(**noise)

        algorithm.sample_noise = draw
        trainer = make_trainer(folder, [], [], "cpu", world_size())
        trainer.fit_loop.max_epochs = 1
        trainer.fit(algorithm, Rows([batch[mine] for batch in batches]))
        torch.save(algorithm.state_dict(), folder / f"{name}-{world_size()}-{RANK}.pt")


class Rows:
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)

    def __len__(self):
        return len(self.rows)


def train(folder: Path) -> int:
    algorithm = build("tdmpc2")
    seed = seed_everything(3)
    env = BatchedEnv([Drift()], "drift")
    env.set_seed(seed)
    agent = algorithm.agent
    replay = Replay(10_000, 1, H, 8, seed)
    feed = Feed(make_collector(env, agent), agent, replay, 100, 10**6, 0.5, 1, world_size())
    stop = GracefulStop(feed)
    checkpoints = Checkpoints(folder / "checkpoints", feed, FACTS, 100)
    trainer = make_trainer(
        folder, [stop, Monitor(feed, 100), checkpoints], [], "cpu", world_size(), timeout_s=60
    )
    (folder / f"pid-{RANK}").write_text(str(os.getpid()))
    last = checkpoints.last if checkpoints.last.exists() else None
    trainer.fit(algorithm, feed.turns(), ckpt_path=last, weights_only=True)
    (folder / f"ended-{RANK}").write_text(f"{feed.updates} {feed.env_steps} {len(replay)}")
    torch.save(algorithm.state_dict(), folder / f"weights-{RANK}.pt")
    trainer.strategy.barrier()
    env.close()
    return 128 + stop.signal if stop.signal else 0


if __name__ == "__main__":
    if "DREAMMPC_LAUNCHER" in os.environ:
        end_with_parent(int(os.environ["DREAMMPC_LAUNCHER"]), signal.SIGTERM)
    if "updates" in sys.argv:
        updates(Path(sys.argv[1]))
    sys.exit(train(Path(sys.argv[1])))

"""Time to save and to load a checkpoint with a full replay, and what saving takes of a training.

    python benchmarks/checkpoint.py --rows 1000000

The replay holds random transitions of walker-walk's sizes (24 observations, 6 actions); `bmpc` also its
plans, which a save writes whole. A stall is how long a training waits for a save after `--every` steps.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from tensordict import TensorDict

from dreammpc.agent import EXPERT_KEYS, Agent
from dreammpc.algorithms import ALGORITHMS
from dreammpc.data import Replay
from dreammpc.models import SIZES
from dreammpc.planning import make_planner
from dreammpc.training.archive import ReplayArchive
from dreammpc.training.files import save_atomically

OBS, ACT = 24, 6


def transitions(count: int, plans: bool) -> TensorDict:
    """Random ones, [1, count]."""
    draw = lambda *shape: torch.randn(1, count, *shape)  # noqa: E731
    after = {"observation": draw(OBS), "reward": draw(1), "terminated": torch.zeros(1, count, 1).bool()}
    init = torch.zeros(1, count, 1).bool()
    init[:, ::500] = True
    content = {"observation": draw(OBS), "action": draw(ACT), "is_init": init, "next": after}
    if plans:
        content["expert"] = TensorDict({"mean": draw(ACT), "std": draw(ACT), "value": draw(1)}, [1, count])
    return TensorDict(content, [1, count])


def weights(name: str, size: str) -> dict:
    """Of a model and its optimizers after one step, as a checkpoint holds them."""
    model = ALGORITHMS[name].model_class(OBS, ACT, 0.99, **vars(SIZES[size]))
    agent = Agent(model, make_planner("mppi", ACT), record=name == "bmpc")
    algorithm = ALGORITHMS[name](agent)
    optimizers = algorithm.configure_optimizers()
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    return {"state_dict": algorithm.state_dict(), "optimizer_states": [o.state_dict() for o in optimizers]}


def timed(function) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def measure(name: str, options: argparse.Namespace, folder: Path) -> str:
    """A line of the table."""
    mutable = EXPERT_KEYS if name == "bmpc" else ()
    replay = Replay(options.rows, 1, 3, 256, mutable=mutable)
    for _ in range(options.rows // 50_000):
        replay.extend(transitions(50_000, bool(mutable)))
    content, archive, saved = weights(name, options.size), ReplayArchive(folder / "replay"), {}

    def save() -> None:
        saved.update(archive.save(replay), replay=replay.state_dict())
        save_atomically({**content, "resume": saved}, folder / "last.ckpt")
        archive.sweep()

    first = timed(save)
    stalls = []
    for _ in range(options.saves):
        replay.extend(transitions(options.every // options.repeat, bool(mutable)))
        stalls.append(timed(save))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    other = Replay(options.rows, 1, 3, 256, mutable=mutable)
    load = timed(lambda: ReplayArchive(folder / "replay").load(other, saved))
    end = replay.written
    assert torch.equal(other.rows(end - 5, end)["action"], replay.rows(end - 5, end)["action"])
    stall = statistics.median(stalls)
    share = stall / (options.every / options.steps_per_s)
    figures = f"{first:.2f} | {size:.0f} | {stall:.2f} | {max(stalls):.2f} | {load:.2f} | {share:.2%}"
    return f"| {name} | {figures} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--every", type=int, default=10_000, help="environment steps between saves")
    parser.add_argument("--repeat", type=int, default=2, help="environment steps per row")
    parser.add_argument("--size", default="nano")
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument(
        "--steps-per-s", type=float, default=50, help="of the training that is to be compared"
    )
    options = parser.parse_args()
    print("| algorithm | save all, s | MB | stall, median s | worst s | load, s | share of training |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in ("tdmpc2", "bmpc"):
        folder = Path(tempfile.mkdtemp(dir="."))
        try:
            print(measure(name, options, folder), flush=True)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()

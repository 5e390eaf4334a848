"""Time an update and a plan of TD-MPC2's own program (github.com/nicklashansen/tdmpc2), 5M from states.

    python benchmarks/authors.py CHECKOUT --json times.jsonl

CHECKOUT is a clone of that repository; nothing of it is part of this one. A copy of it is imported, with
`compile=true` as published, and given random batches on the device, so its replay plays no part. One line of
the copy differs: its stand-ins without data stay where they are when the model moves, which newer versions of
TensorDict do not do by themselves. `--device cpu`, for a trial without a GPU, writes cpu for cuda:0.
"""

import argparse
import contextlib
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from device import multiply_as_trainings, named_device
from omegaconf import OmegaConf

OBS, ACTIONS = 24, 6


def load(checkout: Path, device: str, folder: Path):
    """Their module `tdmpc2`."""
    source = next((path for path in (checkout / "tdmpc2", checkout) if (path / "tdmpc2.py").is_file()), None)
    if source is None:
        raise SystemExit(f"{checkout} is no clone of tdmpc2: there is no tdmpc2.py in it")
    copy = folder / "tdmpc2"
    shutil.copytree(source, copy)
    model = copy / "common/world_model.py"
    moves = "self._apply(lambda t: t if t.is_meta else t.to(*args, **kwargs))"
    model.write_text(model.read_text().replace("super().to(*args, **kwargs)", moves))
    if device == "cpu":
        for file in (copy / "tdmpc2.py", *(copy / "common").glob("*.py")):
            text = file.read_text().replace("cuda:0", "cpu").replace("capturable=True", "capturable=False")
            file.write_text(text)
    sys.path.insert(0, str(copy))
    import tdmpc2  # type: ignore

    return tdmpc2


def config(file: Path, compile: bool) -> SimpleNamespace:
    """Their settings for a task of 24 observations and 6 actions, as their parser leaves them."""
    values = OmegaConf.to_container(OmegaConf.load(file))
    values.pop("defaults", None)
    values |= {"obs_shape": {"state": (OBS,)}, "action_dim": ACTIONS, "episode_length": 500}
    values |= {"multitask": False, "model_size": 5}
    values |= {"tasks": ["walker-walk"], "task": "walker-walk", "task_dim": 0, "compile": compile}
    values |= {"bin_size": (values["vmax"] - values["vmin"]) / (values["num_bins"] - 1)}
    values["lr"], values["entropy_coef"] = float(values["lr"]), float(values["entropy_coef"])
    settings = SimpleNamespace(**values)
    settings.get = lambda key, default=None: values.get(key, default)
    return settings


def timed(call, device: str, runs: int) -> tuple[float, float]:
    """Seconds of the first call, median milliseconds of `runs` after five more."""
    times = []
    for _ in range(runs + 6):
        began = time.perf_counter()
        call()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return times[0], 1e3 * statistics.median(times[6:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--device", type=named_device, default="cuda")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--json")
    args = parser.parse_args()
    if args.device.index:
        parser.error(f"--device {args.device}: their program knows cuda:0 alone")
    multiply_as_trainings(args.device)  # as their train.py
    with tempfile.TemporaryDirectory() as folder:
        module = load(args.checkout.resolve(), args.device.type, Path(folder))
        settings = config(Path(folder) / "tdmpc2/config.yaml", not args.no_compile)
        with contextlib.redirect_stdout(sys.stderr):
            agent = module.TDMPC2(settings)
        device, size, horizon = agent.device, settings.batch_size, settings.horizon
        obs = torch.randn(horizon + 1, size, OBS, device=device)
        action = torch.rand(horizon, size, ACTIONS, device=device) * 2 - 1
        reward = torch.rand(horizon, size, 1, device=device)
        ended = torch.zeros_like(reward)
        sampled = SimpleNamespace(sample=lambda: (obs, action, reward, ended, None))
        one = torch.randn(OBS)
        print("| what | median ms | first call s |\n|---|---:|---:|")
        for what, call in (
            ("update", lambda: agent.update(sampled)),
            ("plan", lambda: agent.act(one, t0=False, eval_mode=False)),
        ):
            first, median = timed(call, args.device.type, args.runs)
            print(f"| {what} of the authors' program, 5M | {median:.2f} | {first:.1f} |", flush=True)
            if args.json:
                row = {"what": what, "size": "5M", "batch": 1, "setting": "authors", "planner": "mppi"}
                with open(args.json, "a") as file:
                    file.write(json.dumps({**row, "ms": median, "first_s": first}) + "\n")


if __name__ == "__main__":
    main()

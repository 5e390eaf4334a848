"""Time one plan of every planner, beside TorchRL's planners and pytorch_mppi in the same model and run.

    python benchmarks/planners.py --size 5M --threads 2 --json cpu.json
    python benchmarks/planners.py --device cuda --mode eager compiled graphs --dtype fp32 bf16 --json gpu.json
    python benchmarks/planners.py --size nano --batch 1 --mode eager --plot planners.png

Prints a Markdown table: model steps per action and environment, median and minimum milliseconds of a call for
the whole batch, how many times faster than our `mppi` of the same group, and the seconds of the first call,
which compiles. A group is one device, size, batch, dtype and mode. Its planners are timed in turns, so that
whatever else the machine does meets all of them; run it alone all the same: a second busy process multiplies
the times.

What is timed is planning, from a latent on, greedy, with the warm start of the last call; no encoder.
`compiled` is torch.compile, of our planners as one graph; `graphs` is the same with CUDA graphs
(mode="reduce-overhead"), for ours alone; bf16 is autocast. benchmarks/other_planners.py tells how the others
take part; pytorch_mppi is optional (`pip install pytorch-mppi`). Only our planners roll the policy out, and
only they score the mean that CEM ends with: hence their few model steps more at equal samples.
"""

import argparse
import ast
import contextlib
import gc
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from device import multiply_as_trainings, named_device
from other_planners import OTHERS, compiled, make_other, missing
from tensordict import TensorDict
from torch import Tensor, nn

from dreammpc.models import SIZES, TDMPC2Model
from dreammpc.planning import PLANNERS, Imagination, make_planner
from dreammpc.runtime.devices import device_name

GROUP = ("device", "size", "batch", "dtype", "mode")
MODES, DTYPES = ("eager", "compiled", "graphs"), ("fp32", "bf16")
ROUNDS = 5


@dataclass
class Case:
    """A planner to be timed."""

    name: str
    call: Callable[[], Tensor]
    """Plans, and returns the actions [B, A]."""
    steps: Callable[[], float]
    """Model steps of a call per environment; known after the first."""
    first_s: float = 0.0
    calls: int = 1
    """In each round."""
    times: list[float] = field(default_factory=list)
    """Milliseconds."""


def random_model(size: str, device: torch.device) -> TDMPC2Model:
    """Random weights, in those layers too that a fresh model has at zero."""
    torch.manual_seed(0)
    model = TDMPC2Model(obs_dim=24, action_dim=6, **asdict(SIZES[size]))
    nn.init.normal_(model.value_heads.weights[-1], std=0.02)
    nn.init.normal_(model.reward.linears[-1].get_parameter("weight"), std=0.02)
    return model.to(device)


def make_case(name: str, model: TDMPC2Model, latent: TensorDict, mode: str, settings: dict) -> Case:
    """One of ours or `OTHERS`; `settings` holds those of our planners by name."""
    if name in OTHERS:
        call, steps = make_other(name, model, latent, mode, settings.get(OTHERS[name], {}))
        return Case(name, call, lambda: steps)
    planner = make_planner(name, model.action_dim, **settings.get(name, {}))
    imagination, evaluations = Imagination(model), None
    state = planner.initial_state(latent.shape[0], latent["z"].device)

    def plan(latent, state):
        return planner.plan(imagination, latent, state)

    run = compiled(plan, mode)

    def call() -> Tensor:
        nonlocal state, evaluations
        if mode == "graphs":
            torch.compiler.cudagraph_mark_step_begin()
        result = run(latent, state)
        # The next run of a CUDA graph overwrites what this one returned; a control loop must copy it, too.
        state = result.state.clone() if mode == "graphs" else result.state
        if evaluations is None:
            evaluations = result.diagnostics["evaluations"].clone()
        return result.action

    return Case(name, call, lambda: evaluations[0].item())


def timed(case: Case, device: torch.device) -> float:
    """Milliseconds of one call, until its actions are there."""
    began = time.perf_counter()
    case.call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began)


def measure(cases: list[Case], device: torch.device, runs: int, seconds: float) -> None:
    """About `runs` calls of each case; fewer where they would take longer than `seconds`, one per round."""
    rounds = min(ROUNDS, runs)
    # The others first: compiled code is void once tensordict has met a class that it did not know, and they
    # bring some.
    for case in sorted(cases, key=lambda case: case.name not in OTHERS):
        case.first_s = 1e-3 * timed(case, device)
    for case in cases:
        timed(case, device)  # CUDA graphs are recorded at the second call
        warm = timed(case, device)
        case.calls = max(1, min(runs // rounds, int(1e3 * seconds / rounds / warm)))
    for _ in range(rounds):
        for case in cases:
            case.times += [timed(case, device) for _ in range(case.calls)]


def measured(group: dict, model: TDMPC2Model, names: list[str], args: argparse.Namespace) -> list[dict]:
    """A row for each planner of a group."""
    torch.compiler.reset()
    gc.collect()
    device, mode = torch.device(group["device"]), group["mode"]
    names = [name for name in names if name not in OTHERS or mode != "graphs"]
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=group["dtype"] == "bf16")
    obs = torch.randn(group["batch"], model.obs_dim, device=device)
    with torch.no_grad(), bf16:
        latent = model.observe(TensorDict({"observation": obs}, obs.shape[:1]), None, None).float()
        cases = [make_case(name, model, latent, mode, args.set) for name in names]
        measure(cases, device, args.runs, args.seconds)
    rows = []
    for case in cases:
        figures = {"median_ms": statistics.median(case.times), "min_ms": min(case.times)}
        figures |= {"calls": len(case.times), "first_s": case.first_s}
        rows.append({**group, "planner": case.name, "steps": case.steps(), **figures})
    base = next((row["median_ms"] for row in rows if row["planner"] == "mppi"), None)
    return [{**row, "ratio": base and base / row["median_ms"]} for row in rows]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    devices = list(dict.fromkeys(map(named_device, ("cpu", "auto"))))
    names = [*PLANNERS, *OTHERS]
    parser.add_argument("--device", nargs="+", type=named_device, default=devices)
    parser.add_argument("--size", nargs="+", default=["nano", "1M", "5M", "19M"], choices=list(SIZES))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 64], help="environments at once")
    parser.add_argument("--dtype", nargs="+", default=["fp32"], choices=DTYPES)
    parser.add_argument("--mode", nargs="+", default=["eager", "compiled"], choices=MODES)
    parser.add_argument("--planner", nargs="+", default=names, choices=names, metavar="NAME")
    parser.add_argument("--set", nargs="+", default=[], metavar="PLANNER.SETTING=VALUE")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--runs", type=int, default=30, help="calls of each planner in each group")
    parser.add_argument("--seconds", type=float, default=20, help="after which a planner gets fewer calls")
    parser.add_argument("--json", help="file to save the rows to, after each group")
    parser.add_argument("--plot", help="picture to draw, see benchmarks/plot_planners.py")
    args = parser.parse_args()
    if "graphs" in args.mode and any(device.type != "cuda" for device in args.device):
        parser.error("--mode graphs means CUDA graphs: it needs --device cuda alone")
    if args.runs < 1:
        parser.error(f"--runs must be at least 1, got {args.runs}")
    try:
        args.set = nested(args.set)
    except ValueError as error:
        parser.error(str(error))
    return args


def nested(words: list[str]) -> dict[str, dict]:
    """`mppi.horizon=5` → {"mppi": {"horizon": 5}}."""
    settings: dict[str, dict] = {}
    for word in words:
        path, _, text = word.partition("=")
        planner, _, name = path.partition(".")
        if not (planner in PLANNERS and name and text):
            raise ValueError(f"--set: expected PLANNER.SETTING=VALUE, got {word!r}")
        value: object = text
        with contextlib.suppress(ValueError, SyntaxError):  # else it stays a string
            value = ast.literal_eval(text)
        settings.setdefault(planner, {})[name] = value
    return settings


def main() -> None:
    args = parsed()
    import plot_planners  # after the arguments are known to be good: it wants matplotlib

    torch.set_num_threads(args.threads)
    about = f"torch {torch.__version__}, {args.threads} threads, {torch.backends.cpu.get_cpu_capability()}"
    about += "".join(f", {device_name(device)}" for device in args.device if device.type == "cuda")
    lines = [f"{about}, load before {os.getloadavg()[0]:.1f}"]
    lines += [why for name in args.planner if (why := missing(name))]
    names = [name for name in args.planner if not missing(name)]
    print("\n".join([*lines, "", plot_planners.table_head()]), flush=True)
    rows: list[dict] = []
    for device, size in itertools.product(args.device, args.size):
        multiply_as_trainings(device)
        model = random_model(size, device)
        for batch, dtype, mode in itertools.product(args.batch, args.dtype, args.mode):
            group = dict(zip(GROUP, (str(device), size, batch, dtype, mode), strict=True))
            found = measured(group, model, names, args)
            print("\n".join(map(plot_planners.table_row, found)), flush=True)
            rows += found
            if args.json:
                Path(args.json).write_text(json.dumps({"about": lines, "rows": rows}, indent=1))
    if args.plot:
        plot_planners.plot(rows, args.plot)


if __name__ == "__main__":
    main()

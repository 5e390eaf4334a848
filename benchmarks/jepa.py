"""Planning towards a goal picture in a JEPA-kind model: gradient ascent against CEM on the same cost.

The model has LeWM's sizes (arXiv 2603.19312): a vision transformer of 12 layers for frames of 224 x 224, and
a predictor of 6 layers over a history of 3. No published weights are needed: the encoder's are random, its
embeddings normalized, and the predictor is trained here for a minute on frames of a dot that actions push. So
times are those of the architecture, costs those of an easy task. Times are of the CPU that the process took.

    OMP_NUM_THREADS=1 python benchmarks/jepa.py --starts 2
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from dreammpc.models import JEPAModel
from dreammpc.nn import Block, ClassToken, ConditionedPredictor, Projected, VisionTransformer
from dreammpc.planning import Goal, Imagination, Objective, make_planner
from dreammpc.tracking import provenance_tags

WIDTH, ACTIONS, HORIZON = 192, 2, 5


def projector() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 2048), nn.BatchNorm1d(2048), nn.GELU(), nn.Linear(2048, WIDTH))


def make_model() -> JEPAModel:
    """LeWM's sizes, random weights."""
    blocks = [Block(WIDTH, 3, 64, 4 * WIDTH, eps=1e-12) for _ in range(12)]
    vision = VisionTransformer(WIDTH, 14, 16, blocks, eps=1e-12)
    nn.init.normal_(vision.positions, std=0.5)
    how = {"bias": False, "eps": 1e-5, "conditioned": True}
    steps = [Block(WIDTH, 16, 64, 2048, **how) for _ in range(6)]
    actions = nn.Sequential(nn.Linear(ACTIONS, 4 * WIDTH), nn.SiLU(), nn.Linear(4 * WIDTH, WIDTH))
    predictor = ConditionedPredictor((3, WIDTH, WIDTH, WIDTH), steps, actions)
    return JEPAModel(
        ClassToken(vision, nn.Sequential(nn.BatchNorm1d(WIDTH))),
        Projected(predictor, projector()),
        ACTIONS,
        (WIDTH,),
    )


def frames_of(places: Tensor) -> Tensor:
    """Bytes [M, 3, 224, 224] with a dot at each of `places` [M, 2] in [-1, 1]."""
    grid = torch.linspace(-1.2, 1.2, 224)
    squared = (grid - places[:, :1]).square()[:, None, :] + (grid - places[:, 1:]).square()[:, :, None]
    return (255 * torch.exp(-squared / 0.05)).to(torch.uint8).unsqueeze(1).expand(-1, 3, -1, -1)


def pushed(places: Tensor, actions: Tensor) -> Tensor:
    return (places + 0.3 * actions).clamp(-1, 1)


def train(model: JEPAModel, paths: int, updates: int) -> list[float]:
    """Fit the predictor to embeddings of random paths of 4 frames; its losses."""
    actions = torch.rand(paths, 3, ACTIONS) * 2 - 1
    places = [torch.rand(paths, 2) * 2 - 1]
    for t in range(3):
        places.append(pushed(places[-1], actions[:, t]))
    frames = frames_of(torch.cat(places)).float() / 255
    with torch.no_grad():
        seen = torch.cat([model.encoder.vision(part)[:, 0] for part in scaled(model, frames).split(32)])
        model.encoder.projector[0].momentum = None  # statistics of all frames
        model.encoder.projector.train()(seen)
        embeddings = model.encoder.projector.eval()(seen).view(4, paths, WIDTH).transpose(0, 1)
    optimizer, losses = torch.optim.AdamW(model.predictor.parameters(), 3e-4), []
    model.predictor.train()
    for _ in range(updates):
        rows = torch.randint(paths, (64,))
        predicted = model.predictor(embeddings[rows, :3], actions[rows])
        loss = (predicted - embeddings[rows, 1:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    model.eval().requires_grad_(False)
    return losses


def scaled(model: JEPAModel, frames: Tensor) -> Tensor:
    return (frames - model.frame_mean) / model.frame_std


def reached(model: JEPAModel, latent: TensorDictBase, actions: Tensor, goal: Goal) -> float:
    """The cost of a plan [H, A]."""
    objective = Objective(terms=(goal,), terminal_value=False)
    return -Imagination(model).score(latent, actions[None, None], objective).objective.item()


def timed(make: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.process_time()
    made = make()
    return made, 1e3 * (time.process_time() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--paths", type=int, default=192)
    parser.add_argument("--updates", type=int, default=300)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = make_model()
    losses = train(model, args.paths, args.updates)
    million = sum(p.numel() for p in model.parameters()) / 1e6
    fit = f"the predictor's error went from {losses[0]:.2f} to {losses[-1]:.3f}"
    print(f"{million:.1f} M parameters; {fit}; {provenance_tags()['cpu']}, {torch.get_num_threads()} threads")
    search = {"line_search": {"step_rule": "line_search", "step_size": 0.5}, "adam": {"optimizer": "adam"}}
    search["adam"] |= {"step_rule": "fixed", "step_size": 0.1}
    methods = {"cem 300 x 30": ("cem", {"num_samples": 300, "iterations": 30, "num_elites": 30})}
    methods["cem 300 x 10"] = ("cem", {"num_samples": 300, "iterations": 10, "num_elites": 30})
    for rule, settings in search.items():
        for count, steps in ((5, 5), (5, 15), (15, 15)):
            own = {"num_candidates": count, "iterations": steps, **settings}
            methods[f"dream_mpc {rule} {count} x {steps}"] = ("dream_mpc", own)
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in methods}
    for start in range(args.starts):
        torch.manual_seed(100 + start)
        places = torch.rand(2, 2) * 1.6 - 0.8
        goal = Goal(weight=1.0, frames=frames_of(places[1:])[0])
        obs = TensorDict({"pixels": frames_of(places[:1])}, [1])
        see = partial(model.observe, obs, torch.zeros(1, ACTIONS), model.initial_belief(1))
        with torch.no_grad():
            latent, seen = timed(see)
            print(f"start {start}: encoding a frame takes {seen:.0f} ms", flush=True)
            for name, (kind, settings) in methods.items():
                common = {"horizon": HORIZON, "terms": [goal], "terminal_value": False}
                planner = make_planner(kind, ACTIONS, **common, **settings)
                torch.manual_seed(start)
                think = partial(planner.plan, Imagination(model), latent, planner.initial_state(1))
                plan, taken = timed(think)
                place = places[:1]
                for action in plan.mean[0]:
                    place = pushed(place, action[None])
                left = (place - places[1:]).norm().item()
                results[name].append((reached(model, latent, plan.mean[0], goal), taken, left))
                print(f"  {name}: {results[name][-1]}", flush=True)
    reference = torch.tensor(results["cem 300 x 30"])
    print("\n| planner, candidates x iterations | cost | ms per plan | times as fast | distance left |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, rows in results.items():
        mean = torch.tensor(rows).mean(0)
        ratio = reference[:, 1].sum() / torch.tensor(rows)[:, 1].sum()
        print(f"| `{name}` | {mean[0]:.3f} | {mean[1]:.0f} | {ratio:.1f} | {mean[2]:.2f} |", flush=True)


if __name__ == "__main__":
    main()

"""A training that takes seconds, assembled as the recipe does it: what faults are tried on."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from dreammpc.configuration import assembly
from dreammpc.configuration.data_schemas import DataConfig
from dreammpc.configuration.planners import build_planner
from dreammpc.configuration.recorded import build_demonstrations, open_data
from dreammpc.configuration.schemas import AlgorithmConfig, BMPCConfig, EnvConfig, ReplayConfig, TrainerConfig
from dreammpc.evaluation import Evaluator
from dreammpc.tracking import JSONLLogger
from dreammpc.training import (
    DESCRIPTION,
    Checkpoints,
    Evaluation,
    GracefulStop,
    Monitor,
    load_checkpoint,
    make_trainer,
    seed_everything,
)
from dreammpc.training.random_state import random_state

TIMES = ("wall_s", "speed/", "ms_per_action")

MODEL = {"name": "tiny", "enc_dim": 16, "mlp_dim": 16, "latent_dim": 16, "num_heads": 2, "num_bins": 11}
PLANNER = {"name": "mppi", "num_samples": 8, "num_elites": 4, "num_policy": 2, "iterations": 1}
CONFIGS = {"tdmpc2": AlgorithmConfig, "bmpc": BMPCConfig}


class Training:
    """Pendulum, or another task, with a tiny model.

    Args:
        folder: of the run.
        algorithm: its name.
        steps: environment steps.
        save_every, evaluate_every, log_every: environment steps.
        resume: a checkpoint.
        planner: settings.
        more: callbacks, after all others.
        accelerator, precision: what trains, and in what.
        task, env: what is trained on, and what its environments are made with.
        place: of the replay, see `assembly.build_feed`.
        data: recorded data and settings of their schema, or None.
        frozen: see `LatentAlgorithm.freeze_parts`.
        compile: how updates and plans run, see `dreammpc.runtime.compiling.MODES`.
        algorithm_settings: in place of the defaults here.
    """

    def __init__(
        self,
        folder: Path,
        algorithm: str = "tdmpc2",
        steps: int = 1200,
        save_every: int = 400,
        evaluate_every: int | None = None,
        log_every: int = 50,
        resume: Path | None = None,
        planner: dict[str, Any] = PLANNER,
        more: tuple[Callback, ...] = (),
        accelerator: str = "cpu",
        precision: str = "32-true",
        task: str = "pendulum-swingup",
        env: dict[str, Any] | None = None,
        place: Any = None,
        data: dict[str, Any] | None = None,
        frozen: dict[str, int] | None = None,
        compile: str = "off",
        **algorithm_settings: Any,
    ):
        seed = seed_everything(1)
        small = {"batch_size": 8, "utd": 0.1, "seed_steps": 100}
        learner = CONFIGS[algorithm](**{**small, **algorithm_settings})
        made = env or {}
        env = assembly.build_env(task, seed, EnvConfig(**made))
        model = assembly.build_model(env, MODEL, learner)
        self.agent = assembly.build_agent(model, build_planner(planner, model.action_dim), learner, compile)
        chosen = DataConfig(**(data or {}))
        whole: Any = SimpleNamespace(folder=folder, data=chosen, algorithm=learner, replay=ReplayConfig())
        whole.trainer = TrainerConfig()
        found = open_data(chosen, env.obs)
        known, _ = build_demonstrations(found, env, self.agent, whole, seed, 1)
        self.feed = assembly.build_feed(env, self.agent, steps, seed, learner, folder=place, data=known)
        self.algorithm = assembly.build_algorithm(self.agent, self.feed, learner, compile)
        self.algorithm.freeze_parts(frozen or {})
        config = {"model": MODEL, "algorithm": dataclasses.asdict(learner), "steps": steps}
        facts = assembly.describe(task, model, config, [])
        resumed = load_checkpoint(resume)[DESCRIPTION] if resume else None
        self.logger = JSONLLogger(folder, resumed["clock"] if resumed else None)
        self.checkpoints = Checkpoints(folder / "checkpoints", self.feed, facts, save_every)
        self.stop = GracefulStop(self.feed)
        callbacks: list[Callback] = [self.stop, Monitor(self.feed, log_every)]
        if evaluate_every is not None:
            evaluator = Evaluator(task, 1, 1000, env.action_repeat, self.stop.requested, options=env.options)
            planners = {"policy": build_planner({"name": "policy"}, model.action_dim)}
            play = lambda: evaluator.compare(model, planners)  # noqa: E731
            self.evaluation = Evaluation(self.feed, play, self.checkpoints, evaluate_every)
            callbacks.append(self.evaluation)
        self.trainer: Trainer = make_trainer(
            folder, [*callbacks, self.checkpoints, *more], [self.logger], accelerator, 1, precision=precision
        )
        self.resume = resume

    def run(self) -> "Training":
        self.trainer.fit(
            self.algorithm,
            self.feed.turns(),
            ckpt_path=None if self.resume is None else str(self.resume),
            weights_only=True,
        )
        return self


class Snapshots(Callback):
    """Saves after some updates, and keeps a copy of the run's folder as it then is."""

    def __init__(self, folder, updates):
        self.folder, self.updates, self.run = folder, updates, None

    def on_train_batch_end(self, trainer, pl_module, *args):
        if self.run.feed.updates in self.updates:
            self.run.checkpoints.save(trainer)
            shutil.copytree(self.folder, self.folder.with_name(f"at{self.run.feed.updates}"))


def everything(run: Training) -> dict:
    """All that must not differ, flat: tensors and plain values by their place."""
    replay = run.feed.replay
    rows = replay.rows(replay.written - len(replay), replay.written)
    tree = {
        "weights": dict(run.algorithm.state_dict()),
        "optimizers": [optimizer.state_dict() for optimizer in run.trainer.optimizers],
        "rows": {str(key): value for key, value in rows.items(True, True)},
        "replay": replay.state_dict(),
        "feed": run.feed.state_dict(),
        "random": random_state(),
        "best": run.checkpoints.best_score,
        "next batch": {str(key): value for key, value in replay.sample().items(True, True)},
    }
    flat: dict = {}

    def walk(place: str, node) -> None:
        items = (
            node.items()
            if isinstance(node, dict)
            else enumerate(node)
            if isinstance(node, list | tuple)
            else None
        )
        if items is None:
            flat[place] = node
        else:
            for key, value in items:
                walk(f"{place}.{key}", value)

    walk("", tree)
    return flat


def lines(folder) -> list[dict]:
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not any(word in k for word in TIMES)} for line in read]


def raw(value: Any) -> bytes:
    """Bytes, in which NaN equals NaN."""
    return value.contiguous().numpy().tobytes() if torch.is_tensor(value) else repr(value).encode()


def digest(run: Training) -> str:
    """One word for `everything` and the log: equal if they are equal to the bit."""
    content = hashlib.sha256(json.dumps(lines(Path(run.logger.save_dir))).encode())
    for place, value in sorted(everything(run).items()):
        content.update(place.encode())
        content.update(raw(value))
    return content.hexdigest()

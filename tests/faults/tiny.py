"""A training that takes seconds, assembled as the recipe does it: what faults are tried on."""

import dataclasses
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from dreammpc import assembly
from dreammpc.config import AlgorithmConfig, BMPCConfig
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

MODEL = {"name": "tiny", "enc_dim": 16, "mlp_dim": 16, "latent_dim": 16, "num_heads": 2, "num_bins": 11}
PLANNER = {"name": "mppi", "num_samples": 8, "num_elites": 4, "num_policy": 2, "iterations": 1}
CONFIGS = {"tdmpc2": AlgorithmConfig, "bmpc": BMPCConfig}


class Training:
    """Pendulum with a tiny model.

    Args:
        folder: of the run.
        algorithm: its name.
        steps: environment steps.
        save_every, evaluate_every, log_every: environment steps.
        resume: a checkpoint.
        planner: settings.
        more: callbacks, after all others.
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
        **algorithm_settings: Any,
    ):
        seed = seed_everything(1)
        small = {"batch_size": 8, "utd": 0.1, "seed_steps": 100}
        settings = dataclasses.asdict(CONFIGS[algorithm](**{**small, **algorithm_settings}))
        env = assembly.build_env("pendulum-swingup", seed)
        model = assembly.build_model(env, MODEL, None, algorithm)
        self.agent = assembly.build_agent(model, assembly.build_planner(planner, model.action_dim), settings)
        self.feed = assembly.build_feed(env, self.agent, steps, seed, settings)
        self.algorithm = assembly.build_algorithm(self.agent, self.feed, settings)
        facts = assembly.describe("pendulum-swingup", model, {"model": MODEL, "algorithm": settings}, [])
        resumed = load_checkpoint(resume)[DESCRIPTION] if resume else None
        self.logger = JSONLLogger(folder, resumed["env_steps"] if resumed else None)
        self.checkpoints = Checkpoints(folder / "checkpoints", self.feed, facts, save_every)
        self.stop = GracefulStop(self.feed)
        callbacks: list[Callback] = [self.stop, Monitor(self.feed, log_every)]
        if evaluate_every is not None:
            evaluator = Evaluator("pendulum-swingup", 1, 1000, env.action_repeat)
            planners = {"policy": assembly.build_planner({"name": "policy"}, model.action_dim)}
            play = lambda: evaluator.compare(model, planners)  # noqa: E731
            callbacks.append(Evaluation(self.feed, play, self.checkpoints, evaluate_every))
        self.trainer: Trainer = make_trainer(
            folder, [*callbacks, self.checkpoints, *more], [self.logger], "cpu", 1
        )
        self.resume = resume

    def run(self) -> "Training":
        self.trainer.fit(
            self.algorithm,
            self.feed,
            ckpt_path=None if self.resume is None else str(self.resume),
            weights_only=True,
        )
        return self

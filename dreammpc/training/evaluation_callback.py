"""Evaluations on the way of a training."""

from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from dreammpc.data import Feed
from dreammpc.evaluation import Episodes
from dreammpc.training.checkpoint import Checkpoints


class Evaluation(Callback):
    """Plays episodes every so many environment steps, logs them and offers the weights as `best`.

    Args:
        feed: the clock.
        evaluate: plays the episodes, with one or several planners, by name; the first one's decide what is
            best, those of the others are logged as `eval/NAME/…`. `None` means it was interrupted.
        checkpoints: who keeps `best`.
        every: environment steps between evaluations.
    """

    def __init__(
        self,
        feed: Feed,
        evaluate: Callable[[], Mapping[str, Episodes | None]],
        checkpoints: Checkpoints,
        every: int,
    ):
        self.feed, self.evaluate, self.checkpoints, self.every = feed, evaluate, checkpoints, every
        self.recent: dict[str, float] = {}
        self._last: tuple[int, dict[str, Episodes]] = -1, {}
        self._next = every
        self._owed = False
        """Whether an evaluation was interrupted; a resumed run makes it up before anything else."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._next = (self.feed.clock // self.every + 1) * self.every
        if self._owed:
            self._play(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # The last step of a training is evaluated by whoever trains, more thoroughly.
        if self.feed.clock >= self._next:
            self._next = (self.feed.clock // self.every + 1) * self.every
            self._play(trainer, pl_module)

    def at(self, clock: int) -> dict[str, Episodes]:
        """Episodes by planner of the evaluation at that step; empty if there was none."""
        return self._last[1] if self._last[0] == clock else {}

    def state_dict(self) -> dict[str, Any]:
        return {"owed": self._owed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._owed = state["owed"]

    def _play(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        metrics: dict[str, float] = {}
        scores: list[float] = []
        self._owed = True  # whatever is raised
        played = self.evaluate()
        for name, episodes in played.items():
            self._owed = episodes is None
            if episodes is None:
                return
            place = f"/{name}" if scores else ""
            metrics |= {
                f"eval{place}/return": episodes.mean,
                f"eval{place}/return_std": episodes.std,
                f"eval{place}/length": sum(episodes.lengths) / len(episodes.lengths),
                f"eval{place}/ms_per_action": episodes.ms_per_action,
                **{f"eval{place}/{key}": rate for key, rate in episodes.success_rates().items()},
                **{f"planner{place}/{key}": value for key, value in episodes.diagnostics.items()},
            }
            scores.append(episodes.mean)
        self.recent = metrics
        self._last = self.feed.clock, {name: one for name, one in played.items() if one is not None}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=self.feed.clock)
        self.checkpoints.offer(pl_module, scores[0])

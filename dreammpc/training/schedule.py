"""Schedules over environment steps."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from dreammpc.data import Feed


class LearningRate(Callback):
    """Changes every optimiser's learning rate linearly over the run, from where it starts.

    It is a function of the feed's clock alone, so a resumed run goes on where it was, and one that is resumed
    with more steps takes the rate of the longer schedule.

    Args:
        feed: the clock.
        final_scale: of the learning rate at the end of the run; 1 leaves it constant.
    """

    def __init__(self, feed: Feed, final_scale: float):
        self.feed, self.final_scale = feed, final_scale

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.final_scale == 1:
            return
        progress = min(self.feed.env_steps / self.feed.total_env_steps, 1.0)
        scale = 1 + (self.final_scale - 1) * progress
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                # As torch's schedulers call it; a checkpoint keeps it with the rest of the group.
                group["lr"] = scale * group.setdefault("initial_lr", group["lr"])

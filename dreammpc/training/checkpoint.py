"""Checkpoints over environment steps: plain data, written atomically, with the replay beside them.

    checkpoints/last.ckpt       everything that resume needs, and which replay files belong to it
    checkpoints/previous.ckpt   what last.ckpt was before, with its replay files
    checkpoints/best.ckpt       weights and description of the best evaluation so far
    checkpoints/replay/         see `archive`

A save never rewrites the replay, and a checkpoint names its replay files, so weights and replay always belong
together. The order of a save: new replay files; `previous` takes the place of `last`, of which there are then
two names; the new `last`, by one rename; files that neither needs are deleted.
"""

import contextlib
import logging
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import CheckpointIO

from dreammpc.data import Feed
from dreammpc.data.collector import stateless
from dreammpc.interfaces import RunError, UsageError
from dreammpc.support import faults
from dreammpc.support.run_folder import BEST, LAST, PREVIOUS
from dreammpc.tracking.provenance import versions
from dreammpc.training.archive import ReplayArchive
from dreammpc.training.checkpoint_format import DESCRIPTION, FORMAT, load_checkpoint
from dreammpc.training.files import intact, save_atomically, sweep_drafts
from dreammpc.training.optimizer_state import check_optimizers
from dreammpc.training.owner import check_owned
from dreammpc.training.random_state import random_state, set_random_state
from dreammpc.training.replicas import all_gather

log = logging.getLogger(__name__)


class AtomicCheckpointIO(CheckpointIO):
    """What Lightning writes and reads checkpoints with."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """`storage_options`: what `save_atomically` takes as `keep`."""
        save_atomically(checkpoint, Path(path), storage_options)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return load_checkpoint(path)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class Checkpoints(Callback):
    """Saves `last` every so many environment steps, at the end and before an exception leaves the Trainer.

    Args:
        folder: where the files go.
        feed: whose clock and replay are saved.
        description: plain facts that loading needs (configuration, task, sizes).
        every: environment steps between saves, counted from 0.
    """

    def __init__(self, folder: str | Path, feed: Feed, description: Mapping[str, Any], every: int = 10_000):
        self.folder, self.feed, self.every = Path(folder).resolve(), feed, every
        self.description = {**description, "versions": versions(), "format": FORMAT}
        self.best_score = -float("inf")
        self._next = every
        self._good: tuple[Path, int] | None = None
        """The newest checkpoint that is known to be whole, and its environment steps."""
        self._rolled_back = self._started = False
        self._resume_from: dict[str, Any] | None = None
        self._archive = ReplayArchive(self.folder / "replay" / "rank0")

    @property
    def last(self) -> Path:
        return self.folder / LAST

    @property
    def previous(self) -> Path:
        return self.folder / PREVIOUS

    @property
    def best(self) -> Path:
        return self.folder / BEST

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._archive = ReplayArchive(self.folder / "replay" / f"rank{trainer.global_rank}")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore what a Trainer does not: clock and replay."""
        if self._resume_from is None:
            return
        self._restore(trainer, self._resume_from)

    def _restore(self, trainer: Trainer, state: dict[str, Any]) -> None:
        mine = self._my_share(trainer)
        source = Path(state["file"])
        archive = ReplayArchive(source.parent / "replay" / f"rank{trainer.global_rank}")
        archive.load(self.feed.replay, mine)
        if archive.folder == self._archive.folder:
            self._archive, self._good = archive, (source, state["env_steps"])
            self._sweep_rest(trainer)
        if self.feed.load_state_dict(mine["feed"]):
            self.feed.replay.carry_on(mine["replay"])
        else:
            why = stateless(self.feed.collector)
            log.warning(
                "the environments' state cannot be taken up again: fresh episodes start%s",
                f" ({why})" if why else "",
            )
        self.best_score = state["best_score"]

    def _sweep_rest(self, trainer: Trainer) -> None:
        """Delete what a killed process left behind."""
        if self.previous.is_file():
            with contextlib.suppress(UsageError):
                ranks = load_checkpoint(self.previous)[DESCRIPTION]["resume"]["ranks"]
                if trainer.global_rank < len(ranks):
                    self._archive.keep(ranks[trainer.global_rank])
        self._archive.sweep()
        if trainer.is_global_zero:
            sweep_drafts(self.folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The random streams last, so that nothing has drawn from them since."""
        self._next = (self.feed.clock // self.every + 1) * self.every
        if self._resume_from is not None:
            check_optimizers(trainer.optimizers)
            if not set_random_state(self._my_share(trainer)["random"], pl_module.device):
                log.warning(
                    "the checkpoint was written on another kind of device than %s, where other random"
                    " numbers follow: the run goes on, not exact to the bit",
                    pl_module.device,
                )
            self._resume_from = None
        self._started = True

    @contextlib.contextmanager
    def restored(self, resume: str | Path | None) -> Iterator[None]:
        """Around a Trainer's `fit`: what restoring the checkpoint `resume` raises is told in one line.

        Raises:
            UsageError: its weights, optimizers, counters, replay or random streams are not those of this run.
        """
        try:
            yield
        except (UsageError, RunError, OSError):
            raise
        except Exception as error:
            if resume is None or self._started:
                raise
            why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise UsageError(
                f"checkpoint {resume} is damaged or of another run: its state cannot be restored ({why})"
            ) from error

    def _my_share(self, trainer: Trainer) -> dict[str, Any]:
        assert self._resume_from is not None
        return self._resume_from["ranks"][trainer.global_rank]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        guard = getattr(pl_module, "guard", None)
        if guard is not None and guard.limit_reached():
            self._roll_back(trainer, pl_module)
            guard.reset()
        if self.feed.clock >= self._next:
            self._next = (self.feed.clock // self.every + 1) * self.every
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        saveable = (
            exception.saveable if isinstance(exception, RunError) else not faults.is_storage_error(exception)
        )
        # Of several processes the others may be gone, and the last good checkpoint holds everyone's replay.
        if self._started and trainer.world_size == 1 and saveable:
            try:
                self.save(trainer)
            except RunError as error:
                log.warning("%s", error)
            except Exception as error:  # whatever was raised at first is what the run ends with
                log.warning("no checkpoint of this moment: %s", faults.exception_line(error))
        if saveable and self._good is not None and isinstance(exception, Exception | SystemExit):
            path, steps = self._good
            again = shlex.quote(f"resume={path}")
            exception.add_note(f"saved at {steps} environment steps, go on with {again}")

    def save(self, trainer: Trainer) -> None:
        """Write `last`; what it was becomes `previous`.

        Raises:
            RunError: it cannot be written. `last` and `previous` are then what they were.
        """
        check_owned(self.folder)
        try:
            trainer.save_checkpoint(self.last, storage_options=self._to_keep())
            self._archive.sweep()
            if trainer.is_global_zero:
                sweep_drafts(self.folder)
        except OSError as error:
            raise RunError(self._unwritten(error), saveable=False) from error
        self._good = self.last, self.feed.env_steps

    def _roll_back(self, trainer: Trainer, module: LightningModule) -> None:
        """Weights and optimizers as of the newest checkpoint; clock, replay and random streams go on.

        Raises:
            RunError: it has been done before, or there is no checkpoint.
        """
        what = (
            f"after {self.feed.env_steps} environment steps: no finite loss and gradient, many times in a row"
        )
        if self._good is None:
            raise RunError(f"stopped {what}; there is no checkpoint to go back to", saveable=False)
        path, steps = self._good
        if self._rolled_back:
            raise RunError(f"stopped {what}, again; the last checkpoint, of {steps} steps, is {path}", False)
        self._rolled_back = True
        content = load_checkpoint(path)
        module.load_state_dict(content["state_dict"])
        getattr(module, "recapture", lambda: None)()
        trainer.strategy.load_optimizer_state_dict(content)
        log.warning("%s; went back to the weights of %s steps, for once", what, steps)

    def state_dict(self) -> dict[str, Any]:
        return {"rolled_back": self._rolled_back}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rolled_back = state["rolled_back"]

    def _to_keep(self) -> tuple[Path, Path] | None:
        """`previous` is to be the newest checkpoint that is whole."""
        if self._good is None or self._good[0] == self.previous or not intact(self._good[0]):
            return None
        return self._good[0], self.previous

    def _unwritten(self, error: OSError) -> str:
        what = f"checkpoint {self.last} of {self.feed.env_steps} environment steps cannot be written:"
        if self._good is None:
            return f"{what} {error.strerror}; there is no earlier one"
        good, steps = self._good
        again = shlex.quote(f"resume={good}")
        return f"{what} {error.strerror}; go on from the last one, of {steps} steps, with {again}"

    def offer(self, module: LightningModule, score: float) -> bool:
        """Write `best` if `score` beats every earlier one; returns whether it did.

        Raises:
            RunError: it cannot be written.
        """
        if score <= self.best_score:
            return False
        check_owned(self.folder)
        before, self.best_score = self.best_score, score
        content = {"state_dict": module.state_dict(), DESCRIPTION: self._describe()}
        try:
            save_atomically(content, self.best)
        except OSError as error:
            self.best_score = before
            raise RunError(f"checkpoint {self.best} cannot be written: {error.strerror}", False) from error
        return True

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        mine = {
            **self._archive.save(self.feed.replay),
            "replay": self.feed.replay.state_dict(),
            "feed": self.feed.state_dict(),
            "random": random_state(pl_module.device),
        }
        everyone = all_gather(trainer, mine)
        checkpoint[DESCRIPTION] = {
            **self._describe(),
            "resume": {"ranks": everyone, "best_score": self.best_score},
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        facts = checkpoint[DESCRIPTION]
        file = str(Path(str(trainer.ckpt_path)).resolve())
        self._resume_from = {**facts["resume"], "env_steps": facts["env_steps"], "file": file}

    def _describe(self) -> dict[str, Any]:
        now = {"env_steps": self.feed.env_steps, "clock": self.feed.clock}
        return {**self.description, **now, "score": self.best_score}

"""Checkpoints: written atomically, verified after writing, loaded without running code, kept as configured."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from medexp.core.errors import MedexpError, RecordError, RunInterruptedError, UsageError
from medexp.core.files import write_atomic, write_json
from medexp.core.hashing import hash_file
from medexp.core.types import Batch
from medexp.engine.module import Experiment
from medexp.engine.optimizers.averaging import judged_weights
from medexp.engine.signals import StopRequest

_INDEX = "index.json"


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, atomic and read back after writing: Lightning itself swallows some write errors."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint and read it back.

        Args:
            checkpoint: Weights and plain values.
            path: The file.
            storage_options: Not used.

        Raises:
            MedexpError: The file cannot be written, or is not readable as weights and plain values.
        """
        target = Path(path)
        try:
            write_atomic(target, lambda stream: torch.save(checkpoint, stream))
            read = load_checkpoint(target)
        except (OSError, RecordError) as error:
            raise MedexpError(
                f"checkpoint {target} could not be written: {error}; check space and permissions"
            ) from error
        if read.keys() != checkpoint.keys():
            raise MedexpError(f"checkpoint {target} lost {sorted(checkpoint.keys() - read.keys())} in writing")

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint of weights and plain values."""
        return load_checkpoint(Path(path), map_location=map_location)


def load_checkpoint(path: Path, *, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running any code that it may hold.

    Args:
        path: The file.
        map_location: Device of the tensors.

    Returns:
        The checkpoint.

    Raises:
        RecordError: The file is missing, corrupt, or would need to run code.
    """
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
    except FileNotFoundError:
        raise RecordError(f"checkpoint {path} is missing; was the run folder moved or cleaned?") from None
    except Exception as error:
        raise RecordError(f"checkpoint {path} cannot be read: {str(error).splitlines()[0]}") from error
    return checkpoint


class CheckpointFolder:
    """The checkpoints of a run with their checksums.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def index(self) -> dict[str, dict[str, Any]]:
        """Entry of each checkpoint by file name: role, step, sha256, score."""
        file = self.path / _INDEX
        entries: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
        return entries

    def newest(self) -> Path | None:
        """The newest checkpoint whose checksum is right, or None; damaged ones are passed over."""
        entries = [
            (entry["step"], entry["batch"], name) for name, entry in self.index().items() if entry["role"] == "last"
        ]
        for _, _, name in sorted(entries, reverse=True):
            if self.is_intact(name):
                return self.path / name
        return None

    def best(self) -> Path | None:
        """The checkpoint of the best validation, or None."""
        names = [name for name, entry in self.index().items() if entry["role"] == "best"]
        return self.path / names[0] if names and self.is_intact(names[0]) else None

    def is_intact(self, name: str) -> bool:
        """Whether a checkpoint is there with its recorded checksum."""
        file = self.path / name
        return file.exists() and hash_file(file) == self.index()[name]["sha256"]

    def add(self, name: str, **entry: Any) -> None:
        """Record a checkpoint that was written."""
        entries = self.index()
        entries[name] = {**entry, "sha256": hash_file(self.path / name)}
        write_json(self.path / _INDEX, entries)

    def keep(self, *, role: str, count: int) -> None:
        """Remove all but the newest `count` checkpoints of a role: first from the index, then from disk."""
        entries = self.index()
        of_role = sorted((name for name in entries if entries[name]["role"] == role), key=lambda n: entries[n]["batch"])
        removed = of_role[: max(0, len(of_role) - count)]
        if not removed:
            return
        write_json(self.path / _INDEX, {name: entry for name, entry in entries.items() if name not in removed})
        for name in removed:
            (self.path / name).unlink(missing_ok=True)


def begin_next_epoch(fit_loop: dict[str, Any]) -> None:
    """Change the state of Lightning's loops from the end of an epoch to the start of the next one.

    Lightning 2.6.6 counts an epoch twice when it resumes from a state that was saved at the epoch's end after a
    validation; from this state it starts the next epoch at its first batch.

    Args:
        fit_loop: State of the fit loop in a checkpoint, changed in place.
    """
    for progress in fit_loop["epoch_progress"].values():
        progress["completed"] = progress["processed"]
    steps = fit_loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    within_epoch = [fit_loop["epoch_loop.batch_progress"], fit_loop["epoch_loop.scheduler_progress"], *steps.values()]
    for progress in within_epoch:
        progress["current"] = dict.fromkeys(progress["current"], 0)
    fit_loop["epoch_loop.batch_progress"]["is_last_batch"] = False
    validation = fit_loop["epoch_loop.val_loop.batch_progress"]
    validation["total"] = dict.fromkeys(validation["total"], 0)


def stay_in_epoch(fit_loop: dict[str, Any]) -> None:
    """Change the state of Lightning's loops from the end of an epoch that `max_steps` cut short to its middle.

    Args:
        fit_loop: State of the fit loop in a checkpoint, changed in place.
    """
    for progress in fit_loop["epoch_progress"].values():
        progress["processed"] = progress["completed"]


class Checkpoints(pl.callbacks.Checkpoint):
    """Saves at the end of training and, in between, by steps, minutes or epochs, always between two optimiser steps.

    Args:
        every_steps: Optimiser steps between two checkpoints; None turns it off.
        every_minutes: Minutes between two checkpoints; None turns it off.
        every_epochs: Epochs between two checkpoints; None turns it off.
        keep_last: How many of the newest are kept.
        keep_best: Keep the one with the best validation score, too.
        folder: Where they lie.
        stop: Set by SIGTERM or Ctrl-C.
    """

    def __init__(
        self,
        *,
        every_steps: int | None,
        every_minutes: float | None,
        every_epochs: int | None,
        keep_last: int,
        keep_best: bool,
        folder: Path,
        stop: StopRequest,
    ) -> None:
        if keep_last < 1:
            raise UsageError(f"callbacks.checkpoints.keep_last needs at least 1, got {keep_last}")
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self.every_epochs = every_epochs
        self.keep_last = keep_last
        self.keep_best = keep_best
        self.folder = CheckpointFolder(folder)
        self.stop = stop
        self._saved_at = time.monotonic()
        self._best: float | None = None
        self._at_end_of_epoch: Callable[[dict[str, Any]], None] | None = None

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best score so far from a checkpoint."""
        self._best = state_dict["best"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let a checkpoint at the end of an epoch say where training goes on."""
        if self._at_end_of_epoch is not None:
            self._at_end_of_epoch(checkpoint["loops"]["fit_loop"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over from Lightning, which would stop between two optimiser steps without saving."""
        self.stop.install()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights if this validation's first metric beats all before."""
        assert isinstance(pl_module, Experiment)
        metric = pl_module.metrics[0]
        self.offer_best(trainer, pl_module.results()[metric.name]["mean"], higher_is_better=metric.higher_is_better)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Save if it is due; the last batch of an epoch is saved after the epoch's validation instead."""
        between_steps = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if not between_steps or batch_idx + 1 == trainer.num_training_batches:
            return
        stopping = self._any_asked_to_stop(trainer)
        if self._any(trainer, self._is_due(trainer)) or stopping:
            self.save(trainer)
        self._stop_if(stopping, trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if it is due, and at the end of training."""
        by_epoch = self.every_epochs is not None and (trainer.current_epoch + 1) % self.every_epochs == 0
        is_end = trainer.current_epoch + 1 == trainer.max_epochs or trainer.global_step >= trainer.max_steps > 0
        stopping = self._any_asked_to_stop(trainer)
        if by_epoch or is_end or self._any(trainer, self._is_due(trainer)) or stopping:
            # An epoch that max_steps cut short is not over: a run with more steps goes on within it.
            is_whole = trainer.fit_loop.epoch_loop.batch_progress.current.ready >= trainer.num_training_batches
            self._at_end_of_epoch = begin_next_epoch if is_whole else stay_in_epoch
            self.save(trainer)
            self._at_end_of_epoch = None
        if not is_end:
            self._stop_if(stopping, trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Write a checkpoint, record its checksum, and remove what is no longer kept."""
        batches = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        name = f"step{trainer.global_step:08d}-batch{batches:08d}.ckpt"
        with judged_weights(trainer.optimizers):
            trainer.save_checkpoint(self.folder.path / name, weights_only=False)
        if trainer.is_global_zero:
            self.folder.add(name, role="last", step=trainer.global_step, batch=batches)
            self.folder.keep(role="last", count=self.keep_last)
        self._saved_at = time.monotonic()

    def offer_best(self, trainer: pl.Trainer, score: float, *, higher_is_better: bool) -> None:
        """Keep the current weights if `score` beats all before."""
        if not self.keep_best or score != score:
            return
        if self._best is not None and (score <= self._best if higher_is_better else score >= self._best):
            return
        self._best = score
        name = f"best-step{trainer.global_step:08d}.ckpt"
        with judged_weights(trainer.optimizers):
            trainer.save_checkpoint(self.folder.path / name, weights_only=False)
        if trainer.is_global_zero:
            batches = trainer.fit_loop.epoch_loop.batch_progress.total.ready
            self.folder.add(name, role="best", step=trainer.global_step, batch=batches, score=score)
            self.folder.keep(role="best", count=1)

    def _is_due(self, trainer: pl.Trainer) -> bool:
        by_steps = self.every_steps is not None and trainer.global_step % self.every_steps == 0
        by_time = self.every_minutes is not None and time.monotonic() - self._saved_at >= 60 * self.every_minutes
        return by_steps or by_time

    def _any(self, trainer: pl.Trainer, wanted: bool) -> bool:
        """Whether one of the processes wants it; their clocks and signals differ, and all have to do the same."""
        return bool(trainer.strategy.reduce_boolean_decision(wanted, all=False))

    def _any_asked_to_stop(self, trainer: pl.Trainer) -> bool:
        return self._any(trainer, self.stop.requested)

    def _stop_if(self, stopping: bool, trainer: pl.Trainer) -> None:
        if stopping:
            by = self.stop.signal_name or "a signal to another process"
            raise RunInterruptedError(f"stopped by {by} after step {trainer.global_step}; state saved")

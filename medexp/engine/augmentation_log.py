"""The parameters of every training sample, on record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from medexp.core.files import write_text
from medexp.core.types import Batch
from medexp.data.module import ImageData
from medexp.engine.history import read_steps

FILE = "augmentation.jsonl"


class AugmentationLog(pl.Callback):
    """Writes a line of JSON for each training sample: case, centre of the patch, and what its augmentation drew.

    Samples follow from (seed, number) alone, so the first process computes the parameters of all processes again
    instead of sending them. A resumed run first drops the lines behind its checkpoint.
    """

    def __init__(self) -> None:
        self._pending: list[str] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop the lines behind the point that training starts from."""
        if trainer.is_global_zero:
            first = _samples_of(trainer, trainer.fit_loop.epoch_loop.batch_progress.total.ready).start
            rows = [row for row in read_steps(_file(trainer)) if row["sample"] < first]
            write_text(_file(trainer), "".join(f"{json.dumps(row)}\n" for row in rows))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Remember the samples of the batch, of all processes."""
        if trainer.is_global_zero:
            samples = _data(trainer).samples
            numbers = _samples_of(trainer, trainer.fit_loop.epoch_loop.batch_progress.total.ready - 1)
            self._pending += [json.dumps(samples.parameters_of(number)) for number in numbers]

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the lines of the epoch."""
        self._flush(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Every sample that a checkpoint has seen is on disk before it is."""
        self._flush(trainer)

    def _flush(self, trainer: pl.Trainer) -> None:
        if self._pending:
            with _file(trainer).open("a", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in self._pending)
            self._pending = []


def _file(trainer: pl.Trainer) -> Path:
    return Path(trainer.default_root_dir) / FILE


def _data(trainer: pl.Trainer) -> ImageData:
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, ImageData)
    return data


def _samples_of(trainer: pl.Trainer, batch: int) -> range:
    """Numbers of the samples of a batch, those of all processes."""
    size = _data(trainer).batch_size * trainer.world_size
    return range(batch * size, (batch + 1) * size)

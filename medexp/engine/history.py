"""The history of a training: a row per batch as it happens, epochs computed from the rows."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch.distributed as dist
from torch import Tensor

from medexp.core.errors import MedexpError
from medexp.core.files import write_text
from medexp.core.record import RunFolder
from medexp.core.types import Batch
from medexp.engine.module import Experiment
from medexp.engine.tracking import Tracking

_FLUSH_BATCHES = 50


class History(pl.Callback):
    """Appends each batch and each validation to steps.jsonl, and computes history.csv from it.

    A resumed run first drops the rows behind its checkpoint, so that an epoch's mean is that of an undisturbed run.

    Of several processes the first writes, and a loss is the mean over all of them.

    Args:
        folder: The run's folder.
        writes: Whether this process writes.
        tracking: Is told what is written.
    """

    def __init__(self, folder: RunFolder, *, writes: bool = True, tracking: Tracking | None = None) -> None:
        self.folder = folder
        self.writes = writes
        self.tracking = tracking
        self._pending: list[dict[str, Any]] = []
        self._lr = float("nan")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop the rows behind the point that training starts from."""
        if not self.writes:
            return
        trained = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        rows = [row for row in read_steps(self.folder.steps) if row["batch"] < trained]
        write_text(self.folder.steps, "".join(f"{json.dumps(row)}\n" for row in rows))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Remember the learning rate of this batch; when it ends, the schedule has moved on."""
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Remember the batch; the loss stays on its device until the rows are written."""
        self._pending.append(
            {
                "batch": trainer.fit_loop.epoch_loop.batch_progress.total.ready - 1,
                "step": trainer.global_step,
                "epoch": trainer.current_epoch,
                "lr": self._lr,
                "images": len(batch.case_ids) * trainer.world_size,
                "loss": outputs["value"],
                "terms": outputs["terms"],
            }
        )
        if len(self._pending) >= _FLUSH_BATCHES:
            self.flush()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the history up to this epoch."""
        self.flush()
        self.write_csv()
        if self.tracking is not None:
            self.tracking.epoch(epoch_table(read_steps(self.folder.steps)).iloc[-1].to_dict())

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Every batch that a checkpoint has seen is on disk before it is."""
        self.flush()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the scores of a validation after the current batch."""
        assert isinstance(pl_module, Experiment)
        self.flush()
        results = pl_module.results()
        trained = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        row = {"batch": trained - 1, "step": trainer.global_step, "epoch": trainer.current_epoch, "validation": results}
        self._append([row])

    def flush(self) -> None:
        """Append the pending rows.

        Raises:
            MedexpError: A loss is not finite.
        """
        rows = _means_over_processes([_plain(row) for row in self._pending])
        self._pending = []
        self._append(rows)
        for row in rows:
            if not math.isfinite(row["loss"]):
                raise MedexpError(
                    f"the loss is {row['loss']} at step {row['step']} (epoch {row['epoch']}, terms {row['terms']}); "
                    "lower optimizer.lr, clip gradients, or check the intensities with precision=32-true"
                )

    def write_csv(self) -> None:
        """Compute history.csv from the rows."""
        if self.writes:
            frame = epoch_table(read_steps(self.folder.steps))
            write_text(self.folder.history, frame.to_csv(index=False))

    def _append(self, rows: Sequence[dict[str, Any]]) -> None:
        if not self.writes:
            return
        with self.folder.steps.open("a") as stream:
            stream.writelines(f"{json.dumps(row)}\n" for row in rows)
            stream.flush()
            os.fsync(stream.fileno())
        if self.tracking is not None:
            self.tracking.batches(rows)


def _means_over_processes(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the mean of loss and terms over all processes, which have the same rows."""
    if not dist.is_initialized() or not rows:
        return rows
    of_processes: list[list[dict[str, Any]]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(of_processes, rows)
    return [
        row
        | {
            "loss": statistics.fmean(other["loss"] for other in others),
            "terms": {name: statistics.fmean(other["terms"][name] for other in others) for name in row["terms"]},
        }
        for row, *others in zip(rows, *of_processes, strict=True)
    ]


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The complete rows of steps.jsonl; a half-written last row of a killed process is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def epoch_table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One line per epoch: steps so far, mean loss and terms over its batches, learning rate, validation scores."""
    epochs: dict[int, dict[str, Any]] = {}
    losses: dict[int, list[dict[str, float]]] = {}
    for row in rows:
        line = epochs.setdefault(row["epoch"], {"epoch": row["epoch"]})
        line["step"] = row["step"]
        if "validation" in row:
            line |= {
                f"val/{name}/{label}": value for name, by in row["validation"].items() for label, value in by.items()
            }
            continue
        line["lr"] = row["lr"]
        losses.setdefault(row["epoch"], []).append({"train/loss": row["loss"]} | _prefixed(row["terms"]))
    for epoch, values in losses.items():
        epochs[epoch] |= {name: math.fsum(value[name] for value in values) / len(values) for name in values[0]}
    return pd.DataFrame(list(epochs.values()))


def _prefixed(terms: dict[str, float]) -> dict[str, float]:
    return {} if set(terms) == {"loss"} else {f"train/{name}": value for name, value in terms.items()}


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    terms = {name: float(term) for name, term in row["terms"].items()}
    loss = row["loss"]
    return row | {"loss": float(loss) if isinstance(loss, Tensor) else loss, "terms": terms}

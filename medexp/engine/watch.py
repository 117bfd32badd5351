"""Following a run: epoch, step, loss and pace as Lightning goes on, handed to a display where it wants them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from enum import Enum, auto
from time import monotonic
from typing import Any, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn

from medexp.engine.pace import Pace, Status, total_epochs, total_steps

_STAGES = {TrainerFn.VALIDATING: "validation", TrainerFn.TESTING: "test", TrainerFn.PREDICTING: "prediction"}


class Moment(Enum):
    """Where a run stands when it could be shown."""

    BATCH_OF_FIT = auto()
    BATCH_OF_EVALUATION = auto()
    END_OF_EPOCH = auto()
    END = auto()


@runtime_checkable
class Display(Protocol):
    """Where a status is shown."""

    def due(self, moment: Moment, *, now_s: float) -> bool:
        """Whether it wants a status now; only then are tensors read, so that a GPU is not waited for at each step."""

    def show(self, status: Status, *, now_s: float) -> None:
        """Show it."""

    def close(self) -> None:
        """Nothing follows."""


class Watch(ABC, pl.Callback):
    """Follows a training or an evaluation; a subclass says where it is shown.

    The loss is the mean over the epoch so far.

    Args:
        metric: Key of the trainer's `callback_metrics` that is shown beside the loss.
    """

    def __init__(self, *, metric: str | None) -> None:
        super().__init__()
        self._metric = metric
        self._enabled = True
        self._display: Display | None = None
        self._loss_sum: torch.Tensor | None = None
        self._epoch: int | None = None
        self._batches: int | None = None
        self._forget()

    @abstractmethod
    def _new_display(self) -> Display:
        """The display of a stage that begins."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the display; the pace counts from here, whatever was done before a resume."""
        self._open()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin a new mean of the loss."""
        self._loss_sum, self._losses = None, 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch, and draw where that is due."""
        if self._display is None:
            return
        self._epoch = trainer.current_epoch + 1
        self._add_loss(outputs, accumulate=trainer.accumulate_grad_batches)
        images = len(batch.case_ids) * trainer.world_size
        self._pace.add(now_s=monotonic(), step=trainer.global_step, images=images)
        self._draw_fit(trainer, Moment.BATCH_OF_FIT)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw with the epoch's metric."""
        self._draw_fit(trainer, Moment.END_OF_EPOCH)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the last state and leave it."""
        self._draw_fit(trainer, Moment.END)
        self._close()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the training's clock, or open the display of a validation alone."""
        self._begin_evaluation(trainer, trainer.num_val_batches)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch, and draw where that is due."""
        self._advance_evaluation(trainer, batch)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the training's clock run again, or close."""
        self._end_evaluation(trainer)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the display."""
        self._begin_evaluation(trainer, trainer.num_test_batches)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch, and draw where that is due."""
        self._advance_evaluation(trainer, batch)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the last state and leave it."""
        self._end_evaluation(trainer)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the display."""
        self._begin_evaluation(trainer, trainer.num_predict_batches)

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batch, and draw where that is due."""
        self._advance_evaluation(trainer, batch)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the last state and leave it."""
        self._end_evaluation(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._close()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the terminal back."""
        self._close()

    def _open(self) -> None:
        self._close()
        self._forget()
        if self._enabled:
            self._display = self._new_display()

    def _forget(self) -> None:
        self._pace = Pace(now_s=monotonic())
        self._loss_sum, self._losses = None, 0
        self._epoch = None
        self._batch, self._batches = 0, None

    def _close(self) -> None:
        if self._display is not None:
            self._display.close()
            self._display = None

    def _add_loss(self, outputs: Any, *, accumulate: int) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, torch.Tensor):
            return
        # Lightning has divided the loss by the number of batches that make a step.
        loss = loss.detach().float().mean() * accumulate
        self._loss_sum = loss if self._loss_sum is None else self._loss_sum + loss
        self._losses += 1

    def _begin_evaluation(self, trainer: pl.Trainer, batches: Any) -> None:
        if trainer.sanity_checking:
            return
        if trainer.state.fn is TrainerFn.FITTING:
            self._pace.pause(now_s=monotonic())
        else:
            self._open()
        total = sum(batches) if isinstance(batches, list) else batches
        self._batch, self._batches = 0, int(total) if math.isfinite(total) else None

    def _advance_evaluation(self, trainer: pl.Trainer, batch: Any) -> None:
        if self._display is None or trainer.sanity_checking:
            return
        self._batch += 1
        if trainer.state.fn is TrainerFn.FITTING:
            self._draw_fit(trainer, Moment.BATCH_OF_FIT, validating=True)
            return
        self._pace.add(now_s=monotonic(), step=self._batch, images=len(batch.case_ids) * trainer.world_size)
        self._draw_evaluation(trainer, Moment.BATCH_OF_EVALUATION)

    def _end_evaluation(self, trainer: pl.Trainer) -> None:
        if trainer.sanity_checking:
            return
        if trainer.state.fn is TrainerFn.FITTING:
            self._pace.go_on(now_s=monotonic())
            return
        self._draw_evaluation(trainer, Moment.END)
        self._close()

    def _draw_fit(self, trainer: pl.Trainer, moment: Moment, *, validating: bool = False) -> None:
        now_s = monotonic()
        if self._display is None or not self._display.due(moment, now_s=now_s):
            return
        status = self._fit_status(trainer, validating=validating, now_s=now_s)
        self._display.show(status, now_s=now_s)

    def _fit_status(self, trainer: pl.Trainer, *, validating: bool, now_s: float) -> Status:
        length: dict[str, Any] = {
            "batches_per_epoch": trainer.num_training_batches,
            "accumulate": trainer.accumulate_grad_batches,
        }
        steps = total_steps(max_steps=trainer.max_steps, max_epochs=trainer.max_epochs, **length)
        value = trainer.callback_metrics.get(self._metric) if self._metric else None
        return Status(
            epoch=self._epoch,
            epochs=total_epochs(steps=steps, **length),
            step=trainer.global_step,
            steps=steps,
            stage="validation" if validating else None,
            batch=self._batch,
            batches=self._batches,
            loss=float(self._loss_sum) / self._losses if self._loss_sum is not None else None,
            metric=self._metric,
            value=None if value is None else float(value),
            images_per_s=None if validating else self._pace.images_per_s,
            left_s=self._pace.left_s(steps, now_s=now_s),
        )

    def _draw_evaluation(self, trainer: pl.Trainer, moment: Moment) -> None:
        now_s = monotonic()
        if self._display is None or not self._display.due(moment, now_s=now_s):
            return
        status = Status(
            stage=_STAGES[trainer.state.fn] if trainer.state.fn else None,
            batch=self._batch,
            batches=self._batches,
            images_per_s=self._pace.images_per_s,
            left_s=self._pace.left_s(self._batches, now_s=now_s),
        )
        self._display.show(status, now_s=now_s)

"""How far a run is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
from enum import Enum, auto
from time import monotonic
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.trainer.states import TrainerFn
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from medexp.core.errors import UsageError
from medexp.engine.pace import Pace, Status, format_status, total_epochs, total_steps

_BAR_EVERY_S = 0.5
_STAGES = {TrainerFn.VALIDATING: "validation", TrainerFn.TESTING: "test", TrainerFn.PREDICTING: "prediction"}


class _Moment(Enum):
    """Where a run stands when it could be shown."""

    BATCH_OF_FIT = auto()
    BATCH_OF_EVALUATION = auto()
    END_OF_EPOCH = auto()
    END = auto()


class _Display(Protocol):
    def due(self, moment: _Moment, *, now_s: float) -> bool: ...

    def show(self, line: str, *, done: int, total: int | None, now_s: float) -> None: ...

    def close(self) -> None: ...


class _Bar:
    """One line at the foot of a terminal; what else is printed appears above it."""

    def __init__(self, console: Console) -> None:
        self._rich = RichProgress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            console=console,
            auto_refresh=False,
            expand=True,
            # What the user sends to a file must reach it.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )
        self._task: TaskID | None = None
        self._shown_s = -math.inf
        self._rich.start()

    def due(self, moment: _Moment, *, now_s: float) -> bool:
        in_passing = moment in (_Moment.BATCH_OF_FIT, _Moment.BATCH_OF_EVALUATION)
        return not in_passing or now_s - self._shown_s >= _BAR_EVERY_S

    def show(self, line: str, *, done: int, total: int | None, now_s: float) -> None:
        if self._task is None:
            self._task = self._rich.add_task(line, total=total)
        self._rich.update(self._task, description=line, completed=done, total=total)
        self._rich.refresh()
        self._shown_s = now_s

    def close(self) -> None:
        self._rich.stop()


class _Lines:
    """Lines for a log file: after an epoch, or during an evaluation alone, and not too many."""

    def __init__(self, console: Console, *, every_s: int | float) -> None:
        self._console = console
        self._every_s = every_s
        self._shown_s = -math.inf
        self._withheld = False

    def due(self, moment: _Moment, *, now_s: float) -> bool:
        if moment is _Moment.BATCH_OF_FIT:
            return False
        due = self._withheld if moment is _Moment.END else now_s - self._shown_s >= self._every_s
        self._withheld = not due
        return due

    def show(self, line: str, *, done: int, total: int | None, now_s: float) -> None:
        self._console.print(Text(line), soft_wrap=True)
        self._shown_s = now_s

    def close(self) -> None:
        pass


class Progress(ProgressBar):
    """Shows epoch, step, loss, a metric, images in a second and the time left.

    A terminal gets a bar that is drawn at most twice a second; anything else gets one line per epoch. Only then are
    tensors read, so that a GPU is not waited for at each step. The loss is the mean over the epoch so far.

    Args:
        metric: Key of the trainer's `callback_metrics` that is shown beside the loss.
        line_every_s: Seconds between two lines, at least; the last state is always printed.
        console: Where to; the standard error stream unless told.

    Raises:
        UsageError: `line_every_s` is negative.
    """

    def __init__(
        self, *, metric: str | None = None, line_every_s: int | float = 30.0, console: Console | None = None
    ) -> None:
        super().__init__()
        if line_every_s < 0:
            raise UsageError(f"line_every_s needs seconds of at least 0, got {line_every_s}")
        self._metric = metric
        self._line_every_s = line_every_s
        self._console = console
        self._enabled = True
        self._display: _Display | None = None
        self._loss_sum: torch.Tensor | None = None
        self._epoch: int | None = None
        self._batches: int | None = None
        self._forget()

    def enable(self) -> None:
        """Show from the next start of a stage on."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing (other ranks, searches before the training)."""
        self._enabled = False
        self._close()

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
        self._draw_fit(trainer, _Moment.BATCH_OF_FIT)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw with the epoch's metric."""
        self._draw_fit(trainer, _Moment.END_OF_EPOCH)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the last state and leave it."""
        self._draw_fit(trainer, _Moment.END)
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
        if not self._enabled:
            return
        console = self._console or Console(stderr=True)
        self._display = _Bar(console) if console.is_interactive else _Lines(console, every_s=self._line_every_s)

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
            self._draw_fit(trainer, _Moment.BATCH_OF_FIT, validating=True)
            return
        self._pace.add(now_s=monotonic(), step=self._batch, images=len(batch.case_ids) * trainer.world_size)
        self._draw_evaluation(trainer, _Moment.BATCH_OF_EVALUATION)

    def _end_evaluation(self, trainer: pl.Trainer) -> None:
        if trainer.sanity_checking:
            return
        if trainer.state.fn is TrainerFn.FITTING:
            self._pace.go_on(now_s=monotonic())
            return
        self._draw_evaluation(trainer, _Moment.END)
        self._close()

    def _draw_fit(self, trainer: pl.Trainer, moment: _Moment, *, validating: bool = False) -> None:
        now_s = monotonic()
        if self._display is None or not self._display.due(moment, now_s=now_s):
            return
        status = self._fit_status(trainer, validating=validating, now_s=now_s)
        self._display.show(format_status(status), done=trainer.global_step, total=status.steps, now_s=now_s)

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

    def _draw_evaluation(self, trainer: pl.Trainer, moment: _Moment) -> None:
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
        self._display.show(format_status(status), done=self._batch, total=self._batches, now_s=now_s)

"""A learning rate from a short training in which it rises (the range test of Smith, WACV 2017)."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from omegaconf import DictConfig
from scipy.signal import savgol_filter
from torch import Tensor

from medexp.core.config import plain
from medexp.core.errors import MedexpError, UsageError
from medexp.core.files import write_atomic, write_json
from medexp.core.instantiate import trust_folders
from medexp.core.record import RunFolder
from medexp.core.schema import check_values
from medexp.core.types import Batch
from medexp.engine.fit import resolved_process
from medexp.engine.log import logging_to
from medexp.engine.process import device_of, keep_freed_memory
from medexp.engine.processes import Processes
from medexp.engine.progress import Progress
from medexp.engine.schedules import Schedule
from medexp.engine.study import Study
from medexp.engine.work import Work

_LEAST_STEPS = 20
_WINDOW_SHARE = 0.1
_LEAST_WINDOW = 5
_MEMORY = 0.9
_DIVERGED = 4.0
RULE = "where the smoothed loss falls most per decade of the learning rate, before it is lowest"


class Ramp(Schedule):
    """From the first learning rate to `ratio` times it, by the same factor at each step.

    Args:
        warmup_steps: Optimiser steps of linear warm-up.
        ratio: Last learning rate over the first.
    """

    def __init__(self, *, warmup_steps: int, ratio: float) -> None:
        super().__init__(warmup_steps=warmup_steps)
        self.ratio = ratio

    def _factor(self, step: int, steps: int) -> float:
        return float(self.ratio ** (step / max(1, steps - 1)))


@dataclass(frozen=True)
class Curve:
    """The loss over the learning rate.

    Attributes:
        lr: Learning rate of each step.
        loss: Loss of each step's batches.
        smoothed: Value at each step of the line that fits the steps around it best.
        slope: Slope of that line: change of the loss per decade of the learning rate.
    """

    lr: tuple[float, ...]
    loss: tuple[float, ...]
    smoothed: tuple[float, ...]
    slope: tuple[float, ...]

    @property
    def lowest(self) -> int:
        """Number of the step at which the smoothed loss is lowest."""
        return int(np.argmin(self.smoothed))

    @property
    def steepest(self) -> int | None:
        """Number of the step that is suggested, see RULE; None where the loss never falls."""
        found = int(np.argmin(self.slope[: self.lowest + 1]))
        return found if self.slope[found] < 0 else None

    @property
    def suggestion(self) -> float | None:
        """The learning rate that is suggested, if there is one."""
        return None if self.steepest is None else self.lr[self.steepest]

    def as_plain(self) -> dict[str, Any]:
        """The curve and what follows from it, for JSON."""
        return {
            "suggestion": self.suggestion,
            "rule": RULE,
            "lowest_at": self.lr[self.lowest],
            "lr": list(self.lr),
            "loss": list(self.loss),
            "smoothed": list(self.smoothed),
            "slope_per_decade": list(self.slope),
        }

    def write(self, folder: Path) -> None:
        """Write lr_find.json and lr_find.png.

        Args:
            folder: Made where it is not there.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "lr_find.json", self.as_plain())
        write_atomic(folder / "lr_find.png", lambda stream: self._figure().savefig(stream, format="png"))

    def _figure(self) -> Figure:
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.plot(self.lr, self.loss, ".", color="0.7", label="loss of a step")
        axes.plot(self.lr, self.smoothed, color="tab:blue", label="smoothed")
        if self.suggestion is not None:
            axes.axvline(self.suggestion, color="tab:red", linestyle="--", label=f"suggested: {self.suggestion:.2g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        axes.legend()
        return figure


def smoothed_curve(lr: Sequence[float], loss: Sequence[float]) -> Curve:
    """A curve from the steps of a ramp.

    The line at a step is fitted by least squares to a tenth of the steps around it, 5 at least (Savitzky and Golay), so
    that it does not lag behind as a running mean would.

    Args:
        lr: Learning rate of each step, rising by the same factor.
        loss: Loss of each step.

    Returns:
        The curve.

    Raises:
        MedexpError: There are fewer steps than one line needs.
    """
    if len(loss) < _LEAST_WINDOW:
        raise MedexpError(
            f"the loss diverged or is not finite after {len(loss)} steps; begin lower (--smallest), or check the data"
        )
    window = max(_LEAST_WINDOW, 2 * round(_WINDOW_SHARE * len(loss) / 2) + 1)
    decades_per_step = math.log10(lr[-1] / lr[0]) / (len(lr) - 1)
    values = np.asarray(loss)
    line = savgol_filter(values, window, polyorder=1)
    slope = savgol_filter(values, window, polyorder=1, deriv=1, delta=decades_per_step)
    return Curve(tuple(lr), tuple(loss), tuple(map(float, line)), tuple(map(float, slope)))


class _Record(pl.Callback):
    """Takes down learning rate and loss of each optimiser step, and stops where the loss has diverged."""

    def __init__(self) -> None:
        self.lr: list[float] = []
        self.loss: list[float] = []
        self._of_step: list[Tensor] = []
        self._mean = 0.0
        self._lowest = math.inf

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Take down the learning rate of this batch; when it ends, the schedule has moved on."""
        self._lr = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Take down the loss when a step is complete."""
        self._of_step.append(outputs["value"])
        if len(self._of_step) < trainer.accumulate_grad_batches:
            return
        loss = math.fsum(map(float, self._of_step)) / len(self._of_step)
        self._of_step = []
        if not math.isfinite(loss):
            trainer.should_stop = True
            return
        self.lr.append(self._lr)
        self.loss.append(loss)
        trainer.should_stop = self._has_diverged(loss)

    def _has_diverged(self, loss: float) -> bool:
        """Whether a running mean is over four times its lowest value, whatever the sign of the loss."""
        self._mean = _MEMORY * self._mean + (1.0 - _MEMORY) * loss
        mean = self._mean / (1.0 - _MEMORY ** len(self.loss))
        self._lowest = min(self._lowest, mean)
        return mean > self._lowest + (_DIVERGED - 1.0) * abs(self._lowest)


def find_learning_rate(config: DictConfig, *, steps: int, smallest: float, largest: float) -> Curve:
    """Train for some steps while the learning rate rises; nothing of it is kept.

    Precision, clipping, accumulation, parameter groups and frozen parameters are those of the training; its schedule,
    callbacks and validations are left out.

    Args:
        config: As `medexp.compose` returns it; stays as it is.
        steps: Optimiser steps.
        smallest: Learning rate of the first step.
        largest: Learning rate of the last one.

    Returns:
        The curve, shorter where the loss diverged.

    Raises:
        UsageError: The numbers are no range, the optimiser has no `lr`, or several processes are asked for.
        MedexpError: The loss diverged before a curve could be seen.
    """
    if steps < _LEAST_STEPS or not 0 < smallest < largest < math.inf:
        raise UsageError(
            f"a range needs {_LEAST_STEPS} steps or more and 0 < smallest < largest, got {steps}, {smallest:g} and "
            f"{largest:g}"
        )
    check_values(plain(config))
    keep_freed_memory()
    trust_folders(config.paths.modules)
    processes = Processes.of(config, device=device_of(config))
    if processes.world_size > 1:
        raise UsageError("one process looks for a learning rate; set trainer.devices=1 and trainer.num_nodes=1")
    record = _Record()
    with tempfile.TemporaryDirectory() as folder:
        ramp = _with_ramp(config, steps=steps, smallest=smallest, largest=largest)
        ramp.paths.runs = folder
        with (
            logging_to(Path(folder) / "log.txt", terminal_too=False),
            processes.open(),
            resolved_process(ramp, Study(Path(folder), "lr_find"), processes),
        ):
            work = Work(ramp, RunFolder(Path(folder)), processes)
            work.trainer([record, Progress(line_every_s=10.0)]).fit(work.parts.module, datamodule=work.parts.data)
    return smoothed_curve(record.lr, record.loss)


def _with_ramp(config: DictConfig, *, steps: int, smallest: float, largest: float) -> DictConfig:
    """A copy of a configuration that trains with a rising learning rate, without validations and callbacks."""
    if "lr" not in config.optimizer:
        raise UsageError("optimizer has no knob lr, whose value is looked for")
    config = config.copy()
    config.optimizer.lr = smallest
    config.scheduler = {
        "_target_": f"{Ramp.__module__}.{Ramp.__qualname__}",
        "warmup_steps": 0,
        "ratio": largest / smallest,
    }
    config.callbacks = {}
    config.trainer.max_steps = steps
    config.trainer.validate_every_epochs = None
    return config

"""How fast a run goes, how long it will take, and the line that says so."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

_RATE_WINDOW_S = 60.0
_RATE_MIN_SAMPLES = 10


@dataclass(frozen=True, kw_only=True)
class Status:
    """What is known of a run at one moment; None is not known (yet) and is not shown.

    Attributes:
        epoch: Number of the epoch, counted from 1.
        epochs: Number of epochs.
        step: Optimiser steps that were made, those before a resume included.
        steps: Optimiser steps of the whole run.
        stage: Name of an evaluation that is under way.
        batch: Batches of that evaluation that were done.
        batches: Batches of that evaluation.
        loss: Mean loss of the epoch so far.
        metric: Name of the metric.
        value: Value of the metric.
        images_per_s: Images in a second of training or evaluation.
        left_s: Seconds to the end.
    """

    epoch: int | None = None
    epochs: int | None = None
    step: int | None = None
    steps: int | None = None
    stage: str | None = None
    batch: int | None = None
    batches: int | None = None
    loss: float | None = None
    metric: str | None = None
    value: float | None = None
    images_per_s: float | None = None
    left_s: int | float | None = None


def format_status(status: Status) -> str:
    """One line for a status, parts two blanks apart.

    >>> format_status(Status(epoch=3, epochs=20, step=300, steps=2000, loss=0.4121, images_per_s=52.13, left_s=192.0))
    'epoch 3/20  step 300/2000  loss 0.412  52.1 images/s  3:12 left'
    """
    parts = [
        _of("epoch", status.epoch, status.epochs),
        _of("step", status.step, status.steps),
        _of(status.stage, status.batch, status.batches) if status.stage else None,
        f"loss {_number(status.loss)}" if status.loss is not None else None,
        f"{status.metric} {_number(status.value)}" if status.metric else None,
        f"{_number(status.images_per_s)} images/s" if status.images_per_s is not None else None,
        f"{format_duration(status.left_s)} left" if status.left_s is not None else None,
    ]
    return "  ".join(part for part in parts if part)


def _of(word: str, done: int | None, total: int | None) -> str | None:
    if done is None:
        return None
    return f"{word} {done}" if total is None else f"{word} {done}/{total}"


def _number(value: float | None) -> str:
    """Three significant digits without an exponent where that is short; a dash for what is not known."""
    if value is None:
        return "-"
    if not math.isfinite(value) or (value != 0 and not 1e-3 <= abs(value) < 1e5):
        return f"{value:.3g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    shown = f"{value:.{digits}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def format_duration(seconds: int | float) -> str:
    """Minutes and seconds, with hours and days where there are some.

    >>> format_duration(192.0), format_duration(3723.0), format_duration(183845.0)
    ('3:12', '1:02:03', '2 d 3:04:05')
    """
    minutes, second = divmod(round(max(0.0, seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
    return f"{days} d {clock}" if days else clock


def total_steps(
    *, max_steps: int, max_epochs: int | None, batches_per_epoch: int | float, accumulate: int
) -> int | None:
    """Optimiser steps of a whole run; None for a run without end.

    Args:
        max_steps: Limit in steps; -1 for none.
        max_epochs: Limit in epochs; None or -1 for none.
        batches_per_epoch: Batches in an epoch; infinite for a stream.
        accumulate: Batches whose gradients make one step; an epoch's last step may have fewer.

    Returns:
        Number of steps.
    """
    limits = [max_steps] if max_steps > 0 else []
    if max_epochs is not None and max_epochs > 0 and math.isfinite(batches_per_epoch):
        limits.append(max_epochs * math.ceil(batches_per_epoch / accumulate))
    return min(limits, default=None)


def total_epochs(*, steps: int | None, batches_per_epoch: int | float, accumulate: int) -> int | None:
    """Epochs that hold that many optimiser steps; None for a run or an epoch without end.

    Args:
        steps: Optimiser steps of the whole run.
        batches_per_epoch: Batches in an epoch; infinite for a stream.
        accumulate: Batches whose gradients make one step.

    Returns:
        Number of epochs, the last perhaps cut short.
    """
    if steps is None or not math.isfinite(batches_per_epoch):
        return None
    return math.ceil(steps / max(1, math.ceil(batches_per_epoch / accumulate)))


class Pace:
    """Moving rate of steps and images, from what this process did itself.

    Pauses (validation within training) do not slow the rate, but the time left holds their share.
    """

    def __init__(self, *, now_s: float) -> None:
        self._begun_s = now_s
        self._paused_s = 0.0
        self._pause_began_s: float | None = None
        self._images = 0
        # (seconds of work, steps, images) after each batch
        self._samples: deque[tuple[float, int, int]] = deque()

    def pause(self, *, now_s: float) -> None:
        """Stop the clock of work."""
        self._pause_began_s = now_s

    def go_on(self, *, now_s: float) -> None:
        """Let the clock of work run again."""
        if self._pause_began_s is not None:
            self._paused_s += now_s - self._pause_began_s
            self._pause_began_s = None

    def add(self, *, now_s: float, step: int, images: int) -> None:
        """Note a batch that was done.

        Args:
            now_s: Time.
            step: Steps of the whole run after the batch.
            images: Images of the batch.
        """
        self._images += images
        work_s = now_s - self._begun_s - self._paused_s
        self._samples.append((work_s, step, self._images))
        while len(self._samples) > _RATE_MIN_SAMPLES and work_s - self._samples[0][0] > _RATE_WINDOW_S:
            self._samples.popleft()

    @property
    def images_per_s(self) -> float | None:
        """Images in a second of work; None before the second batch."""
        return self._rate(2)

    def left_s(self, steps: int | None, *, now_s: float) -> float | None:
        """Seconds to the end of a run of that many steps; None where it cannot be known."""
        rate = self._rate(1)
        if steps is None or not rate:
            return None
        wall_s = now_s - self._begun_s
        paused_s = self._paused_s + (now_s - self._pause_began_s if self._pause_began_s is not None else 0.0)
        share = wall_s / (wall_s - paused_s) if wall_s > paused_s else 1.0
        return max(0, steps - self._samples[-1][1]) / rate * share

    def _rate(self, column: int) -> float | None:
        if len(self._samples) < 2:
            return None
        first, last = self._samples[0], self._samples[-1]
        seconds = last[0] - first[0]
        return (last[column] - first[column]) / seconds if seconds > 0 else None

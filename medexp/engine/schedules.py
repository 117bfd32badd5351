"""Learning-rate schedules: the factor on the first learning rate at each optimiser step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from medexp.core.errors import UsageError

_SHAPES = ("cosine", "linear")


class Schedule(ABC):
    """A schedule with linear warm-up in front.

    Args:
        warmup_steps: Optimiser steps over which the factor rises from 1 / (warmup_steps + 1) of the schedule's first
            value to that value.

    Attributes:
        watches: Name of the metric whose validation scores the schedule needs; None where it needs none.
        moves_momentum: Whether it sets the optimiser's momentum, too.
    """

    watches: str | None = None
    moves_momentum: bool = False

    def __init__(self, *, warmup_steps: int) -> None:
        if warmup_steps < 0:
            raise UsageError(f"scheduler.warmup_steps needs a value >= 0, got {warmup_steps}")
        self.warmup_steps = warmup_steps

    def factor(self, step: int, total_steps: int) -> float:
        """The factor at optimiser step `step` of `total_steps`, counted from 0."""
        rise = min(1.0, (step + 1) / (self.warmup_steps + 1))
        return rise * self._factor(*self._behind_warmup(step, total_steps))

    def momentum(self, step: int, total_steps: int) -> float | None:
        """The momentum at this step; None where the optimiser's own stays."""
        return None

    def observe(self, score: float) -> None:  # noqa: B027  (most learn nothing)
        """Take note of a validation's score, where the schedule watches one.

        Args:
            score: Score of the watched metric; higher is better (the engine turns the sign where lower is).
        """

    def state_dict(self) -> dict[str, Any]:
        """What the schedule has learned from the scores."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  (most learn nothing)
        """Take it from a checkpoint."""

    @abstractmethod
    def _factor(self, step: int, steps: int) -> float:
        """The factor at step 0 <= `step` <= `steps` of those behind the warm-up."""

    def _behind_warmup(self, step: int, total_steps: int) -> tuple[int, int]:
        steps = max(1, total_steps - self.warmup_steps)
        return min(max(0, step - self.warmup_steps), steps), steps


class Constant(Schedule):
    """The same learning rate throughout."""

    def _factor(self, step: int, steps: int) -> float:
        return 1.0


class Step(Schedule):
    """Drops at given shares of the training, as for CIFAR in He et al. (CVPR 2016): by 10 at 1/2 and at 3/4.

    Args:
        warmup_steps: Optimiser steps of linear warm-up.
        milestones: Shares in (0, 1) of the steps behind the warm-up after which the learning rate drops.
        drop_factor: Factor of each drop.
    """

    def __init__(self, *, warmup_steps: int, milestones: Sequence[float], drop_factor: float) -> None:
        super().__init__(warmup_steps=warmup_steps)
        if not all(0 < share < 1 for share in milestones):
            raise UsageError(f"scheduler.milestones needs shares of the training in (0, 1), got {list(milestones)}")
        self.milestones = tuple(milestones)
        self.drop_factor = drop_factor

    def _factor(self, step: int, steps: int) -> float:
        return self.drop_factor ** sum(step / steps >= share for share in self.milestones)


class Polynomial(Schedule):
    """(1 - progress)^power, as in DeepLab (Chen et al., 2017) and nnU-Net.

    Args:
        warmup_steps: Optimiser steps of linear warm-up.
        power: Exponent.
    """

    def __init__(self, *, warmup_steps: int, power: float) -> None:
        super().__init__(warmup_steps=warmup_steps)
        self.power = power

    def _factor(self, step: int, steps: int) -> float:
        return (1.0 - step / steps) ** self.power


class Cosine(Schedule):
    """Half a cosine from 1 to `final_factor` (Loshchilov and Hutter, ICLR 2017, without restarts).

    Args:
        warmup_steps: Optimiser steps of linear warm-up.
        final_factor: Factor at the end.
    """

    def __init__(self, *, warmup_steps: int, final_factor: float) -> None:
        super().__init__(warmup_steps=warmup_steps)
        self.final_factor = final_factor

    def _factor(self, step: int, steps: int) -> float:
        return self.final_factor + (1.0 - self.final_factor) * 0.5 * (1.0 + math.cos(math.pi * (step / steps)))


class OneCycle(Schedule):
    """Up to the optimiser's learning rate and down below its start, the momentum against it (Smith and Topin, 2018).

    `optimizer.lr` is the peak. The steps of the turning points are those of torch's OneCycleLR.

    Args:
        warmup_steps: Optimiser steps of linear warm-up to the cycle's first value.
        rising_share: Share of the steps before the peak.
        start_factor: Learning rate at the start, relative to the peak.
        final_factor: Learning rate at the end, relative to the peak.
        momentum: Momentum (or Adam's first beta) at the peak and at start and end; None leaves the optimiser's.
        shape: "cosine" or "linear" between the turning points.
        three_phases: Fall back to the start in as many steps as the rise took, then to the end, as in the paper;
            otherwise fall to the end at once.

    Raises:
        UsageError: A knob has an unfit value.
    """

    def __init__(
        self,
        *,
        warmup_steps: int,
        rising_share: float,
        start_factor: float,
        final_factor: float,
        momentum: Sequence[float] | None,
        shape: str,
        three_phases: bool,
    ) -> None:
        super().__init__(warmup_steps=warmup_steps)
        most = 0.5 if three_phases else 1.0
        if not 0 < rising_share < most:
            raise UsageError(f"scheduler.rising_share needs a share in (0, {most:g}), got {rising_share}")
        if momentum is not None and (len(momentum) != 2 or not all(0 <= value < 1 for value in momentum)):
            raise UsageError(
                f"scheduler.momentum needs two values in [0, 1), at the peak and at both ends, or null, got {momentum}"
            )
        if shape not in _SHAPES:
            raise UsageError(f"scheduler.shape needs {' or '.join(_SHAPES)}, got {shape}")
        self.rising_share = rising_share
        self.start_factor = start_factor
        self.final_factor = final_factor
        self.momenta = None if momentum is None else tuple(momentum)
        self.moves_momentum = momentum is not None
        self.shape = shape
        self.three_phases = three_phases

    def momentum(self, step: int, total_steps: int) -> float | None:
        """The momentum at this step; None where the optimiser's own stays."""
        if self.momenta is None:
            return None
        at_peak, at_ends = self.momenta
        values = (at_ends, at_peak, at_ends, at_ends)
        return self._between(values, *self._behind_warmup(step, total_steps))

    def _factor(self, step: int, steps: int) -> float:
        turns = (self.start_factor,) if self.three_phases else ()
        return self._between((self.start_factor, 1.0, *turns, self.final_factor), step, steps)

    def _between(self, values: Sequence[float], step: int, steps: int) -> float:
        """The value at a step from those at the turning points; more values than points are left over."""
        step, begin = min(step, steps - 1), 0.0
        for end, before, after in zip(self._ends(steps), values, values[1:], strict=False):
            if step <= end:
                done = (step - begin) / (end - begin) if end > begin else 1.0
                share = done if self.shape == "linear" else 0.5 * (1.0 - math.cos(math.pi * done))
                return before + (after - before) * share
            begin = end
        return after

    def _ends(self, steps: int) -> tuple[float, ...]:
        peak = self.rising_share * steps - 1
        return (peak, 2 * peak, steps - 1.0) if self.three_phases else (peak, steps - 1.0)


class Plateau(Schedule):
    """Drops when the validation's score has stopped to rise, as torch's ReduceLROnPlateau.

    The score is a metric's mean over the classes. A score that is undefined is passed over.

    Args:
        warmup_steps: Optimiser steps of linear warm-up.
        metric: Name of the metric.
        drop_factor: Factor of each drop.
        patience: Validations without gain that are endured; one more drops the learning rate.
        min_gain: What a score has to be better than the best before by, to count as a gain.
        cooldown: Validations after a drop that do not count.
        final_factor: Factor below which it never drops.

    Raises:
        UsageError: A knob has an unfit value.
    """

    def __init__(
        self,
        *,
        warmup_steps: int,
        metric: str,
        drop_factor: float,
        patience: int,
        min_gain: float,
        cooldown: int,
        final_factor: float,
    ) -> None:
        super().__init__(warmup_steps=warmup_steps)
        if not 0 < drop_factor < 1:
            raise UsageError(f"scheduler.drop_factor needs a value in (0, 1), got {drop_factor}")
        if patience < 0 or cooldown < 0:
            raise UsageError(f"scheduler.patience and cooldown need values >= 0, got {patience} and {cooldown}")
        self.watches = metric
        self.drop_factor = drop_factor
        self.patience = patience
        self.min_gain = min_gain
        self.cooldown = cooldown
        self.final_factor = final_factor
        self._level = 1.0
        self._best = -math.inf
        self._without_gain = 0
        self._cooling = 0

    def observe(self, score: float) -> None:
        """Drop if the score has not risen for too long."""
        if math.isnan(score):
            return
        if score > self._best + self.min_gain:
            self._best, self._without_gain = score, 0
        else:
            self._without_gain += 1
        if self._cooling > 0:
            self._cooling, self._without_gain = self._cooling - 1, 0
        if self._without_gain > self.patience:
            self._level = max(self._level * self.drop_factor, self.final_factor)
            self._cooling, self._without_gain = self.cooldown, 0

    def state_dict(self) -> dict[str, Any]:
        """Level, best score and counters."""
        return {
            "level": self._level,
            "best": self._best,
            "without_gain": self._without_gain,
            "cooling": self._cooling,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them from a checkpoint."""
        self._level, self._best = state["level"], state["best"]
        self._without_gain, self._cooling = state["without_gain"], state["cooling"]

    def _factor(self, step: int, steps: int) -> float:
        return self._level

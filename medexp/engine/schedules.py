"""Learning-rate schedules: the factor on the first learning rate at each optimiser step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from medexp.core.errors import UsageError


class Schedule(ABC):
    """A schedule with linear warm-up in front.

    Args:
        warmup_steps: Optimiser steps over which the factor rises from 1 / (warmup_steps + 1) to 1.
    """

    def __init__(self, *, warmup_steps: int) -> None:
        if warmup_steps < 0:
            raise UsageError(f"scheduler.warmup_steps needs a value >= 0, got {warmup_steps}")
        self.warmup_steps = warmup_steps

    def factor(self, step: int, total_steps: int) -> float:
        """The factor at optimiser step `step` of `total_steps`, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        decaying = max(1, total_steps - self.warmup_steps)
        return self._decay(min(1.0, (step - self.warmup_steps) / decaying))

    @abstractmethod
    def _decay(self, progress: float) -> float:
        """The factor after a part in [0, 1] of the steps behind the warm-up."""


class Constant(Schedule):
    """The same learning rate throughout."""

    def _decay(self, progress: float) -> float:
        return 1.0


class Polynomial(Schedule):
    """(1 - progress)^power, as in DeepLab (Chen et al., 2017) and nnU-Net.

    Args:
        warmup_steps: Optimiser steps of linear warm-up.
        power: Exponent.
    """

    def __init__(self, *, warmup_steps: int, power: float) -> None:
        super().__init__(warmup_steps=warmup_steps)
        self.power = power

    def _decay(self, progress: float) -> float:
        return (1.0 - progress) ** self.power


class Cosine(Schedule):
    """Half a cosine from 1 to `final_factor` (Loshchilov and Hutter, ICLR 2017, without restarts).

    Args:
        warmup_steps: Optimiser steps of linear warm-up.
        final_factor: Factor at the end.
    """

    def __init__(self, *, warmup_steps: int, final_factor: float) -> None:
        super().__init__(warmup_steps=warmup_steps)
        self.final_factor = final_factor

    def _decay(self, progress: float) -> float:
        return self.final_factor + (1.0 - self.final_factor) * 0.5 * (1.0 + math.cos(math.pi * progress))

"""A schedule at work: it sets the learning rate, and the momentum where it moves that, of an optimiser's groups."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from medexp.core.errors import UsageError
from medexp.engine.schedules import Schedule


class Rates(LRScheduler):
    """Sets each group's first learning rate times the schedule's factor, at each optimiser step.

    Args:
        optimizer: Has the groups.
        schedule: Says the factors.
        total_steps: Optimiser steps of the whole training.

    Raises:
        UsageError: The schedule moves a momentum that the optimiser has not got.
    """

    def __init__(self, optimizer: Optimizer, schedule: Schedule, *, total_steps: int) -> None:
        if schedule.moves_momentum and not all(map(_has_momentum, optimizer.param_groups)):
            raise UsageError(
                f"scheduler.momentum moves the optimiser's momentum, and {type(optimizer).__name__} as configured has "
                "none; choose an optimizer that has (e.g. sgd_nesterov, adamw), or scheduler.momentum=null"
            )
        self.schedule = schedule
        self.total_steps = total_steps
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """The learning rate of each group at this step."""
        factor = self.schedule.factor(self.last_epoch, self.total_steps)
        return [first * factor for first in self.base_lrs]

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next optimiser step."""
        super().step(epoch)
        momentum = self.schedule.momentum(self.last_epoch, self.total_steps)
        if momentum is not None:
            for group in self.optimizer.param_groups:
                _set_momentum(group, momentum)

    def observe(self, score: float) -> None:
        """Tell the schedule a validation's score, and set what the next step takes.

        Args:
            score: Score of the metric that the schedule watches; higher is better.
        """
        self.schedule.observe(score)
        factor = self.schedule.factor(self.last_epoch, self.total_steps)
        for group, first in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = first * factor
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Plain values: the step, the first learning rates, and what the schedule has learned."""
        own = {name: value for name, value in super().state_dict().items() if name != "total_steps"}
        return own | {"schedule": self.schedule.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them from a checkpoint; the length of the training may have changed since."""
        self.schedule.load_state_dict(state_dict["schedule"])
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "schedule"})


def _has_momentum(group: dict[str, Any]) -> bool:
    return "betas" in group or group.get("momentum", 0.0) != 0.0


def _set_momentum(group: dict[str, Any], momentum: float) -> None:
    if "betas" in group:
        group["betas"] = (momentum, *group["betas"][1:])
    else:
        group["momentum"] = momentum

"""When a trial is stopped before its end, by its validation scores beside those of the other trials."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from medexp.core.errors import UsageError


@runtime_checkable
class Pruner(Protocol):
    """When a trial is stopped.

    Attributes:
        stops: Whether it ever stops one.
    """

    stops: bool

    def build(self) -> Any:
        """Optuna's pruner."""


class Never:
    """Every trial is trained to its end."""

    stops = False

    def build(self) -> Any:
        """Optuna's pruner."""
        from optuna.pruners import NopPruner

        return NopPruner()


class Median:
    """Stops a trial whose best score so far is worse than the median of the others at the same epoch.

    Args:
        startup_trials: Trials that must have finished before any is stopped.
        warmup_epochs: Epochs of each trial before it may be stopped.

    Raises:
        UsageError: A number is below 0.
    """

    stops = True

    def __init__(self, *, startup_trials: int, warmup_epochs: int) -> None:
        _at_least("startup_trials", startup_trials, 0)
        _at_least("warmup_epochs", warmup_epochs, 0)
        self.startup_trials = startup_trials
        self.warmup_epochs = warmup_epochs

    def build(self) -> Any:
        """Optuna's pruner."""
        from optuna.pruners import MedianPruner

        return MedianPruner(n_startup_trials=self.startup_trials, n_warmup_steps=self.warmup_epochs)


class Hyperband:
    """Gives few epochs to many trials and many to the best of them, in several brackets (Li et al. 2018).

    Args:
        min_epochs: Epochs that every trial is trained at least.
        max_epochs: Epochs of a whole training; "auto": those of the first trial that was not stopped.
        reduction_factor: One of so many trials is trained on, each time.

    Raises:
        UsageError: A number is too small.
    """

    stops = True

    def __init__(self, *, min_epochs: int, max_epochs: int | str, reduction_factor: int) -> None:
        _at_least("min_epochs", min_epochs, 1)
        _at_least("reduction_factor", reduction_factor, 2)
        if max_epochs != "auto" and not (isinstance(max_epochs, int) and max_epochs >= min_epochs):
            raise UsageError(
                f"search.pruner.max_epochs needs auto or a whole number from min_epochs={min_epochs} on, got "
                f"{max_epochs}"
            )
        self.min_epochs = min_epochs
        self.max_epochs = max_epochs
        self.reduction_factor = reduction_factor

    def build(self) -> Any:
        """Optuna's pruner."""
        from optuna.pruners import HyperbandPruner

        return HyperbandPruner(
            min_resource=self.min_epochs, max_resource=self.max_epochs, reduction_factor=self.reduction_factor
        )


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UsageError(f"search.pruner.{name} needs a whole number from {least} on, got {value}")

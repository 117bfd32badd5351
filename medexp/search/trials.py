"""A trial of a search, and what a search has to know and to do; nothing here imports Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from medexp.search.space import Space


class State(StrEnum):
    """State of a trial."""

    OPEN = "open"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


@dataclass(frozen=True)
class Trial:
    """A trial of a search.

    Attributes:
        number: Counted from 0.
        values: What it tries by key, as overrides spell it.
        state: Its state.
        objective: Its score; None unless it is complete.
        run: Name of its run's folder; None where that was never made.
        epoch: The last epoch that it told a validation score of; None where it told none.
        error: Why it failed.
    """

    number: int
    values: dict[str, str]
    state: State
    objective: float | None = None
    run: str | None = None
    epoch: int | None = None
    error: str | None = None


@runtime_checkable
class Ledger(Protocol):
    """The trials of a search, as several processes share them; one that asks for trials is a worker."""

    def trials(self) -> list[Trial]:
        """All trials that were begun, in order."""

    def adopt(self) -> list[Trial]:
        """Open trials of workers that are gone, which are this worker's from now on."""

    def claim(self) -> Trial | None:
        """A new trial for this worker; None where there are enough."""

    def place(self, number: int, run: str) -> bool:
        """Note the run's folder of a trial, and say whether it is to be made: not if it is another trial's."""

    def complete(self, number: int, objective: float) -> None:
        """Note the score of a trial that has finished."""

    def prune(self, number: int) -> None:
        """Note that a trial was stopped by the pruner."""

    def fail(self, number: int, error: str) -> None:
        """Note why a trial failed."""

    def best(self) -> Trial | None:
        """The trial with the best score; None where none is complete."""


@runtime_checkable
class Reporter(Protocol):
    """What a run tells of its validations.

    Attributes:
        metric: Name of the metric whose mean it wants; None for the first.
    """

    metric: str | None

    def should_stop(self, score: float, *, epoch: int) -> bool:
        """Tell a score; whether the trial is to be stopped."""


@runtime_checkable
class Search(Protocol):
    """An option of conf/search.

    Attributes:
        metric: Name of the metric that is searched for; None for the first.
        prunes: Whether trials may be stopped before their end.
    """

    metric: str | None
    prunes: bool

    def first_values(self, space: Space) -> dict[str, str]:
        """What the first trial tries."""

    def open(
        self, folder: Path, space: Space, *, maximize: bool, about: Mapping[str, Any], retry: bool
    ) -> AbstractContextManager[Ledger]:
        """Begin the search of a study, or go on with it."""

    def reporter(self, folder: Path, trial: int) -> Reporter | None:
        """What a trial's run tells of its validations; None where nobody asks."""

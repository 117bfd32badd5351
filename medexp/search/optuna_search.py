"""Searches by Optuna, kept in an SQLite file of the study's folder."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medexp.core.errors import UsageError
from medexp.search.optuna_ledger import OptunaLedger, distributions, sampler_seed, spelt_values, stored
from medexp.search.optuna_reporter import OptunaReporter
from medexp.search.pruners import Pruner
from medexp.search.samplers import Sampler
from medexp.search.space import Space, combinations, count_combinations


class Optuna:
    """A search by Optuna. It is kept in STUDY/optuna.db, so that it goes on after an interruption.

    Args:
        n_trials: Trials in all, those of earlier commands too; None: every combination, where all are tried.
        metric: Name of the metric whose mean over the validation cases is searched for; None for the first.
        seed: What is drawn follows from it, with one job at a time.
        sampler: How values are drawn.
        pruner: When a trial is stopped before its end.

    Raises:
        UsageError: Optuna is not installed, or the number of trials is missing or wrong.
    """

    def __init__(
        self, *, n_trials: int | None, metric: str | None, seed: int, sampler: Sampler, pruner: Pruner
    ) -> None:
        if importlib.util.find_spec("optuna") is None:
            raise UsageError("search=optuna needs Optuna; install it with pip install 'medexp[optuna]'")
        if n_trials is None and not sampler.lists_all:
            raise UsageError("search.n_trials needs a whole number from 1 on, e.g. search.n_trials=20, got null")
        if n_trials is not None and not (isinstance(n_trials, int) and n_trials > 0):
            raise UsageError(f"search.n_trials needs a whole number from 1 on, got {n_trials}")
        self.n_trials = n_trials
        self.metric = metric
        self.seed = seed
        self.sampler = sampler
        self.pruner = pruner
        self.prunes = pruner.stops

    def first_values(self, space: Space) -> dict[str, str]:
        """What the first trial tries; nothing is written.

        Args:
            space: What may vary.

        Returns:
            A value by key, as overrides spell it.

        Raises:
            UsageError: Every combination is to be tried, and an interval has too many values.
        """
        if self.sampler.lists_all:
            return next(combinations(space))
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=self.sampler.seeded(sampler_seed(self.seed, 0)))
        return spelt_values(space, study.ask(distributions(space)).params)

    @contextmanager
    def open(
        self, folder: Path, space: Space, *, maximize: bool, about: Mapping[str, Any], retry: bool
    ) -> Iterator[OptunaLedger]:
        """Begin the search of a study, or go on with it.

        Args:
            folder: The study's folder.
            space: What may vary.
            maximize: Whether the largest score is the best.
            about: What the search is about; one that was begun with something else is refused.
            retry: Try the values of failed trials again.

        Yields:
            Its trials.

        Raises:
            UsageError: The folder holds another search.
        """
        total = count_combinations(space) if self.sampler.lists_all else None
        wanted = min(self.n_trials or total, total) if total else self.n_trials
        assert wanted is not None
        grid = list(combinations(space))[:wanted] if self.sampler.lists_all else ()
        with stored(folder) as storage:
            ledger = OptunaLedger(folder, space, storage=storage, n_trials=wanted, seed=self.seed)
            ledger.begin(
                sampler=self.sampler, pruner=self.pruner, maximize=maximize, about=about, queued=grid, retry=retry
            )
            with ledger.working():
                yield ledger

    def reporter(self, folder: Path, trial: int) -> OptunaReporter | None:
        """What a trial's run tells of its validations, see `Search`."""
        return OptunaReporter(folder, trial, metric=self.metric, pruner=self.pruner) if self.prunes else None

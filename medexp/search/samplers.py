"""How a search draws the values of its next trial.

The random numbers of a trial follow from the search's seed and the trial's number alone, so that a search that was
interrupted draws what it would have drawn; Optuna's samplers would begin with the same numbers again.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from medexp.core.errors import UsageError


@runtime_checkable
class Sampler(Protocol):
    """How values are drawn.

    Attributes:
        lists_all: Whether every combination is tried in turn, and nothing is drawn.
    """

    lists_all: bool

    def seeded(self, seed: int) -> Any:
        """Optuna's sampler for one trial."""


class Tpe:
    """Tree-structured Parzen estimator, of all keys together (Bergstra et al. 2011, Falkner et al. 2018).

    Args:
        startup_trials: Trials that are drawn at random before it learns from their results.
        candidates: Draws of which the one with the highest expected improvement is taken.

    Raises:
        UsageError: A number is too small.
    """

    lists_all = False

    def __init__(self, *, startup_trials: int, candidates: int) -> None:
        if startup_trials < 1:
            raise UsageError(f"search.sampler.startup_trials needs a whole number from 1 on, got {startup_trials}")
        if candidates < 1:
            raise UsageError(f"search.sampler.candidates needs a whole number from 1 on, got {candidates}")
        self.startup_trials = startup_trials
        self.candidates = candidates

    def seeded(self, seed: int) -> Any:
        """Optuna's sampler for one trial; trials that still run count as bad, so that neighbours are not drawn."""
        from optuna.samplers import TPESampler

        return TPESampler(
            n_startup_trials=self.startup_trials,
            n_ei_candidates=self.candidates,
            multivariate=True,
            constant_liar=True,
            seed=seed,
        )


class Random:
    """Values drawn at random, each key for itself."""

    lists_all = False

    def seeded(self, seed: int) -> Any:
        """Optuna's sampler for one trial."""
        from optuna.samplers import RandomSampler

        return RandomSampler(seed=seed)


class Grid(Random):
    """Every combination of values once, in the order of the command line."""

    lists_all = True

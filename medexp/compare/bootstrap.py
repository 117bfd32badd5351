"""The two-level bootstrap: groups and trainings are drawn anew, within folds. It describes and does not decide."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer

from medexp.compare.units import Cells, strata_of

# Numbers in the largest array at a time.
_CHUNK = 4_000_000


@dataclass(frozen=True, eq=False)
class Resampling:
    """Draws of groups and trainings, the same for every method and pair, so that resamples can be compared.

    Attributes:
        group_of: Index of each unit's group.
        unit_strata: Stratum of each unit (in cross-validation its fold).
        training_strata: Stratum of each training.
        resamples: How many.
        seed: What they are drawn with.
    """

    group_of: Integer[np.ndarray, "units"]
    unit_strata: Integer[np.ndarray, "units"]
    training_strata: Integer[np.ndarray, "trainings"]
    resamples: int
    seed: int

    @classmethod
    def of(cls, cells: Cells, *, resamples: int, seed: int) -> Resampling:
        """The draws for cells.

        Args:
            cells: Say which units, groups and trainings there are, and which belong together.
            resamples: How many.
            seed: What they are drawn with.

        Returns:
            The draws, which are made when they are needed.
        """
        units, trainings = strata_of(np.isfinite(cells.values).any(axis=0))
        return cls(cells.group_of, units, trainings, resamples, seed)

    def means(self, arrays: Sequence[Float[np.ndarray, "units trainings"]]) -> Float[np.ndarray, "resamples arrays"]:
        """The mean of each array in each resample: over units, of which each is shared by its trainings.

        Args:
            arrays: Values, nan where there is none.

        Returns:
            The means; nan where nothing with a value was drawn.
        """
        stacked = np.stack(arrays, axis=-1)
        present = np.isfinite(stacked)
        counts = present.sum(axis=1, keepdims=True)
        weights = np.divide(present, counts, out=np.zeros(stacked.shape), where=counts > 0)
        sums = np.concatenate([weights * np.where(present, stacked, 0.0), weights], axis=-1)
        found = []
        for units, trainings in self._draws(width=sums.shape[1] * sums.shape[2]):
            drawn = (units @ sums.reshape(len(sums), -1)).reshape(len(units), *sums.shape[1:])
            found.append(np.einsum("rt,rtk->rk", trainings, drawn))
        totals, shares = np.split(np.concatenate(found), 2, axis=1)
        return np.divide(totals, shares, out=np.full(totals.shape, math.nan), where=shares > 0)

    def _draws(
        self, width: int
    ) -> Iterator[tuple[Float[np.ndarray, "chunk units"], Float[np.ndarray, "chunk trainings"]]]:
        """How often each unit and each training is drawn, some resamples at a time."""
        random_units, random_trainings = (np.random.default_rng([self.seed, level]) for level in (0, 1))
        group_strata = np.zeros(self.group_of.max() + 1, dtype=np.int64)
        group_strata[self.group_of] = self.unit_strata
        size = max(1, _CHUNK // max(width, len(self.group_of)))
        for begin in range(0, self.resamples, size):
            count = min(size, self.resamples - begin)
            groups = _multinomial(group_strata, count, random_units)
            yield groups[:, self.group_of], _multinomial(self.training_strata, count, random_trainings)


def _multinomial(
    strata: Integer[np.ndarray, "members"], count: int, random: np.random.Generator
) -> Float[np.ndarray, "count members"]:
    """How often each member is drawn, if each stratum is drawn with replacement as often as it has members."""
    drawn = np.zeros((count, len(strata)))
    for stratum in np.unique(strata):
        inside = np.flatnonzero(strata == stratum)
        drawn[:, inside] = random.multinomial(len(inside), np.full(len(inside), 1 / len(inside)), size=count)
    return drawn


def interval(
    resampled: Float[np.ndarray, "resamples *arrays"],
) -> tuple[Float[np.ndarray, "*arrays"], Float[np.ndarray, "*arrays"]]:
    """The 2.5th and the 97.5th percentile over the resamples that are defined.

    Args:
        resampled: A value for each resample.

    Returns:
        Lower and upper end; nan where fewer than half of the resamples are defined.
    """
    enough = np.isfinite(resampled).mean(axis=0) >= 0.5
    safe = np.where(enough, resampled, 0.0)
    low, high = np.nanquantile(safe, [0.025, 0.975], axis=0)
    return np.where(enough, low, math.nan), np.where(enough, high, math.nan)


def within_unit(
    ends: tuple[Float[np.ndarray, "arrays"], Float[np.ndarray, "arrays"]], unit: str
) -> tuple[Float[np.ndarray, "arrays"], Float[np.ndarray, "arrays"]]:
    """Ends of intervals of values, not of differences: a fraction stays between 0 and 1, where pseudo-values need not.

    Args:
        ends: Lower and upper ends.
        unit: Unit of the values.

    Returns:
        The ends.
    """
    low, high = (np.clip(end, 0.0, 1.0) if unit == "fraction" else end for end in ends)
    return low, high

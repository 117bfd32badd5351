"""What stands beside the verdict of a pair: rank and permutation tests over groups, effect sizes, wins and losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer
from scipy.stats import rankdata, wilcoxon

_CHUNK = 4_000_000
# Below this share of the largest difference two values are equal but for rounding.
_TIE = 1e-12
_EXACT = 12


def group_means(
    values: Float[np.ndarray, "units trainings"], group_of: Integer[np.ndarray, "units"]
) -> Float[np.ndarray, "groups"]:
    """The mean of each group: over its units, of which each is averaged over its trainings.

    Args:
        values: nan where there is none.
        group_of: Index of each unit's group.

    Returns:
        A value for each group that has one; differences that are rounding are 0.
    """
    present = np.isfinite(values)
    counts = present.sum(axis=1)
    used = counts > 0
    means = np.where(present, values, 0.0).sum(axis=1)[used] / counts[used]
    _, index = np.unique(group_of[used], return_inverse=True)
    found: np.ndarray = np.bincount(index, means) / np.bincount(index)
    return found


def without_rounding(differences: Float[np.ndarray, "groups"]) -> Float[np.ndarray, "groups"]:
    """The same, where what is rounding is 0, so that ties are ties."""
    largest = np.abs(differences).max(initial=0.0)
    return np.where(np.abs(differences) <= _TIE * largest, 0.0, differences)


def wilcoxon_p(differences: Float[np.ndarray, "groups"]) -> float:
    """Two-sided p-value of the signed-rank test, zeros ranked with the others (Pratt) and then dropped.

    Exact up to 50 groups without ties and zeros, else by the normal approximation without correction for continuity.
    Source: J. W. Pratt, Remarks on zeros and ties in the Wilcoxon signed rank procedures, JASA 54 (1959).

    Args:
        differences: Of each group.

    Returns:
        The p-value; 1 where all differences are 0, nan without groups.
    """
    d = without_rounding(differences)
    if not len(d):
        return math.nan
    if not d.any():
        return 1.0
    ranks = rankdata(np.abs(d))
    plain = len(d) <= 50 and d.all() and len(np.unique(ranks)) == len(d)
    return float(wilcoxon(d, zero_method="pratt", method="exact" if plain else "asymptotic").pvalue)


def rank_biserial(differences: Float[np.ndarray, "groups"]) -> float:
    """Share of the rank sum that is positive minus the share that is negative.

    Source: D. S. Kerby, The simple difference formula, Comprehensive Psychology 3 (2014).

    Args:
        differences: Of each group; zeros are left out.

    Returns:
        From -1 to 1; nan where all are 0.
    """
    d = without_rounding(differences)
    d = d[d != 0]
    if not len(d):
        return math.nan
    ranks = rankdata(np.abs(d))
    return float((ranks * np.sign(d)).sum() / ranks.sum())


def effect_size(differences: Float[np.ndarray, "groups"]) -> float:
    """Mean over standard deviation (Cohen's d_z); nan with fewer than two groups or without spread."""
    d = without_rounding(differences)
    if len(d) < 2:
        return math.nan
    spread = float(d.std(ddof=1))
    return float(d.mean()) / spread if spread > _TIE * np.abs(d).max(initial=0.0) else math.nan


def permutation_p(
    differences: Sequence[Float[np.ndarray, "_"]], *, resamples: int, seed: int
) -> Float[np.ndarray, "pairs"]:
    """Two-sided p-values of flipping the signs of groups' differences, by their mean.

    All flips are tried where there are at most 12 groups; else as many as `resamples`, drawn anew for each number of
    groups, and p = (1 + flips as extreme) / (1 + flips).

    Args:
        differences: Of each pair, a value a group.
        resamples: Flips.
        seed: What they are drawn with.

    Returns:
        A p-value for each pair; nan without groups.
    """
    found = np.full(len(differences), math.nan)
    for count in {len(d) for d in differences} - {0}:
        places = [index for index, d in enumerate(differences) if len(d) == count]
        d = np.stack([without_rounding(differences[index]) for index in places], axis=1)
        observed = np.abs(d.sum(axis=0)) * (1 - 1e-9)
        if count <= _EXACT:
            signs = 1.0 - 2.0 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
            found[places] = (np.abs(signs @ d) >= observed).mean(axis=0)
            continue
        random, extreme = np.random.default_rng(seed), np.zeros(len(places))
        size = max(1, _CHUNK // count)
        for begin in range(0, resamples, size):
            signs = random.choice([-1.0, 1.0], size=(min(size, resamples - begin), count))
            extreme += (np.abs(signs @ d) >= observed).sum(axis=0)
        found[places] = (1 + extreme) / (1 + resamples)
    return found


def holm(p: Sequence[float]) -> list[float]:
    """P-values after Holm's step-down correction over those that are defined.

    The smallest of m is multiplied by m, the next by m - 1, and none may come out below the one before. As in
    statsmodels, whose function collects the garbage of the whole process at each call.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statistics 6 (1979).

    Args:
        p: P-values, nan where undefined.

    Returns:
        Corrected ones in the same order; nan stays nan.
    """
    values = np.array(p, dtype=float)
    defined = np.flatnonzero(np.isfinite(values))
    order = defined[np.argsort(values[defined], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    values[order] = np.minimum(1.0, np.maximum.accumulate(factors * values[order]))
    return [float(value) for value in values]

"""The one rule that decides "better", "worse" or "not separable": random effects of groups, trainings and seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Integer
from scipy.optimize import brentq
from scipy.stats import chi2, norm, t

from medexp.compare.units import strata_of

POWER = 0.8
# Below this share of the largest difference a spread is rounding.
_ROUNDING = 1e-12
_SMALLEST_P = 1e-15
# Of the integral over the estimated standard error.
_STEPS = 400


@dataclass(frozen=True)
class Spread:
    """How sure a mean paired difference is.

    The difference of a unit u in a training s on a training set f from a seed k is modelled as mean + group of u + s +
    f + k + rest, with random groups, trainings, training sets (folds), seeds and rests. The variance of the mean is the
    sum of a part of the groups, from the sums of the groups; one of the trainings, from their deviations within a fold;
    and, with several folds, one of the training sets, what the folds differ by more than the first two explain, and one
    of the seeds, from the sums of their trainings over all folds. For complete data of one fold the first two are the
    mean squares of groups and of trainings over the number of values. The rest is in both; it is not subtracted, since
    the difference of mean squares is small by chance where it should be large.

    Attributes:
        mean: Mean over units of the unit's mean over its trainings.
        v_groups: Part of the variance of the mean that is due to groups; with one training a fold, all of it.
        df_groups: Its degrees of freedom.
        v_trainings: Part that is due to trainings; nan where it cannot be told apart.
        df_trainings: Its degrees of freedom; 0 where there is no such part.
        n_groups: Groups that were counted.
        training_sd: Standard deviation of the mean between trainings of a stratum; nan with one training in each.
        v_sets: Part that is due to training sets; 0 where the folds differ by no more than the rest explains.
        df_sets: Its degrees of freedom; 0 with one fold.
        v_seeds: Part that is due to seeds, which the trainings of several folds have in common.
        df_seeds: Its degrees of freedom; 0 where no seed is in two trainings.
        reason: Why no variance can be estimated, or nothing.
    """

    mean: float
    v_groups: float
    df_groups: int
    v_trainings: float
    df_trainings: int
    n_groups: int
    training_sd: float = math.nan
    v_sets: float = 0.0
    df_sets: int = 0
    v_seeds: float = 0.0
    df_seeds: int = 0
    reason: str = ""

    @property
    def _parts(self) -> Float[np.ndarray, "2 parts"]:
        """Variances and their degrees of freedom."""
        pairs = (
            (self.v_groups, self.df_groups),
            (self.v_trainings, self.df_trainings),
            (self.v_sets, self.df_sets),
            (self.v_seeds, self.df_seeds),
        )
        return np.array([pair for pair in pairs if pair[1] > 0], dtype=float).reshape(-1, 2).T

    @property
    def _has_two_seeds(self) -> bool:
        """Whether a part that varies has one degree of freedom, from two seeds."""
        return self.df_trainings == 1 or (self.df_seeds == 1 and self.v_seeds > 0)

    @property
    def standard_error(self) -> float:
        """Standard error of the mean."""
        return math.nan if self.reason else math.sqrt(self._parts[0].sum())

    @property
    def df(self) -> float:
        """Satterthwaite's degrees of freedom, (sum of v)^2 / (sum of v^2 / df)."""
        if self.reason or not self.standard_error:
            return math.nan
        variances, dfs = self._parts
        return float(variances.sum() ** 2 / (variances**2 / dfs).sum())

    def half_width(self, alpha: float) -> float:
        """Half the width of the interval of level 1 - alpha.

        With one degree of freedom for trainings or seeds (two seeds) Satterthwaite's interval is too narrow: wrong in
        up to 13 % instead of 5 %. Each part is then given its own quantile, which is never too narrow. Source:
        S. Banerjee, Approximate confidence interval for linear functions of means of k populations when the population
        variances are not equal, Sankhya 22 (1960).

        Args:
            alpha: Chance to be wrong.

        Returns:
            The half width; nan where there is no standard error.
        """
        if not self.standard_error > 0:
            return math.nan if self.reason else 0.0
        if not self._has_two_seeds:
            return float(t.isf(alpha / 2, self.df)) * self.standard_error
        variances, dfs = self._parts
        return math.sqrt((t.isf(alpha / 2, dfs) ** 2 * variances).sum())

    @property
    def p(self) -> float:
        """Two-sided p-value of "no difference"; of the signs alone where every group and training says the same."""
        if self.reason:
            return math.nan
        if not self.mean:
            return 1.0
        if not self.standard_error:
            return min(1.0, 2.0 ** (1 - self.n_groups))
        if not self._has_two_seeds:
            return float(2 * t.sf(abs(self.mean) / self.standard_error, self.df))
        if self.half_width(_SMALLEST_P) < abs(self.mean):
            return _SMALLEST_P
        return float(brentq(lambda p: self.half_width(p) - abs(self.mean), _SMALLEST_P, 1 - 1e-12, xtol=_SMALLEST_P))

    def smallest_difference(self, alpha: float, power: float = POWER) -> float:
        """The true difference that would be found with a chance of `power`, with as many groups and trainings.

        It is the delta for which P(|Z + delta / s| > W h / s) = power, with a standard normal Z, and W^2 a chi-square
        variable over its degrees of freedom, which are those of the mean: the estimated standard error varies as W s,
        and the half width h at level alpha goes with it. What the variances really are is not known; each is taken at
        its median-unbiased estimate, which is as often too small as too large.

        Args:
            alpha: Level of the test.
            power: Wanted chance.

        Returns:
            The difference in the metric's unit, positive; nan where there is no standard error.
        """
        if not self.standard_error > 0:
            return math.nan
        likely = self._likely
        scales = np.sqrt(chi2.ppf((np.arange(_STEPS) + 0.5) / _STEPS, likely.df) / likely.df)
        critical = likely.half_width(alpha) / likely.standard_error * scales

        def lacking(shift: float) -> float:
            return float(np.mean(norm.cdf(shift - critical) + norm.cdf(-shift - critical))) - power

        return float(brentq(lacking, 0.0, critical.max() + 10.0)) * likely.standard_error

    @property
    def _likely(self) -> Spread:
        """The same with variances that are as often too small as too large; an estimate of few degrees is too small."""
        return replace(
            self,
            v_groups=self.v_groups * _median_factor(self.df_groups),
            v_trainings=self.v_trainings * _median_factor(self.df_trainings),
            v_sets=self.v_sets * _median_factor(self.df_sets),
            v_seeds=self.v_seeds * _median_factor(self.df_seeds),
        )


def _median_factor(df: int) -> float:
    """What makes an estimated variance median-unbiased."""
    return df / float(chi2.median(df)) if df else 1.0


def spread_of(
    difference: Float[np.ndarray, "units trainings"],
    group_of: Integer[np.ndarray, "units"],
    seed_of: Integer[np.ndarray, "trainings"] | None = None,
) -> Spread:
    """The mean of paired differences and its variance, for any pattern of missing values.

    A unit weighs 1 / (number of units), shared by its trainings. Trainings that share no unit (folds) are strata:
    a training is compared with the others of its stratum only, and the variance between trainings is pooled over
    strata. Where no stratum has two trainings, but there are several, a stratum is one cluster, which holds its groups,
    its training and its training set; with one stratum and one training nothing says how another would have come out.

    Args:
        difference: First minus second; nan where there is none.
        group_of: Index of each unit's group.
        seed_of: Index of each training's seed; None where no two trainings have one in common.

    Returns:
        The spread; with a reason, and without numbers but the mean, where it cannot be estimated.
    """
    present = np.isfinite(difference)
    used_units, used_trainings = present.any(axis=1), present.any(axis=0)
    present = present[used_units][:, used_trainings]
    if not present.size:
        return _unknown(math.nan, 0, "no case is defined in both")
    weights = present / present.sum(axis=1, keepdims=True) / len(present)
    d = np.where(present, difference[used_units][:, used_trainings], 0.0)
    mean = float((weights * d).sum())
    _, group_of = np.unique(group_of[used_units], return_inverse=True)
    n_groups = int(group_of.max()) + 1
    if n_groups < 2:
        return _unknown(mean, n_groups, "one group")
    if present.shape[1] < 2:
        return _unknown(mean, n_groups, "one training of each; how another seed would come out is not known")
    seeds = np.arange(len(used_trainings)) if seed_of is None else seed_of
    return _estimated(d, weights, group_of, seeds[used_trainings], mean)


def _estimated(
    d: Float[np.ndarray, "units trainings"],
    weights: Float[np.ndarray, "units trainings"],
    group_of: Integer[np.ndarray, "units"],
    seed_of: Integer[np.ndarray, "trainings"],
    mean: float,
) -> Spread:
    """The spread of several groups and trainings."""
    of_unit, of_training = strata_of(weights > 0)
    n_groups, n_strata = int(group_of.max()) + 1, len(np.unique(of_training))
    own = (weights * (d - mean)).sum(axis=1)
    tiny = (_ROUNDING * max(1e-300, float(np.abs(d).max()))) ** 2
    v_strata = _between(np.bincount(np.unique(of_unit, return_inverse=True)[1], own), tiny)
    if n_strata == d.shape[1]:
        return Spread(mean, v_strata, n_strata - 1, math.nan, 0, n_groups)
    v_groups = _between(np.bincount(group_of, own), tiny)
    deviations = _deviations(d, weights)
    variance, shares = _between_trainings(deviations, weights, of_training)
    variance = _above(variance, tiny)
    seeds, seed_of = np.unique(seed_of, return_inverse=True)
    recur = 1 < len(seeds) < d.shape[1]
    return Spread(
        mean=mean,
        v_groups=v_groups,
        df_groups=n_groups - 1,
        v_trainings=variance * shares,
        df_trainings=d.shape[1] - n_strata,
        n_groups=n_groups,
        training_sd=math.sqrt(variance),
        v_sets=_above(v_strata - v_groups - variance * shares, tiny),
        df_sets=n_strata - 1,
        v_seeds=_between(np.bincount(seed_of, deviations), tiny) if recur else 0.0,
        df_seeds=len(seeds) - 1 if recur else 0,
    )


def _unknown(mean: float, n_groups: int, reason: str) -> Spread:
    return Spread(mean, math.nan, 0, math.nan, 0, n_groups, reason=reason)


def _above(variance: float, tiny: float) -> float:
    """The variance, or 0 where it is rounding or negative."""
    return variance if variance > tiny else 0.0


def _between(sums: Float[np.ndarray, "clusters"], tiny: float) -> float:
    """Variance of the sum of independent clusters' sums, which add up to 0 here; 0 with one cluster."""
    count = len(sums)
    return _above(float(count / (count - 1) * (sums**2).sum()), tiny) if count > 1 else 0.0


def _deviations(
    d: Float[np.ndarray, "units trainings"], weights: Float[np.ndarray, "units trainings"]
) -> Float[np.ndarray, "trainings"]:
    """What each training adds to the mean beside what its units have on the average."""
    unit_means = (weights * d).sum(axis=1) / weights.sum(axis=1)
    return (weights * (d - unit_means[:, None])).sum(axis=0)


def _between_trainings(
    sums: Float[np.ndarray, "trainings"],
    weights: Float[np.ndarray, "units trainings"],
    of_training: Integer[np.ndarray, "trainings"],
) -> tuple[float, float]:
    """Variance of a training's mean, by its deviations, and its share."""
    squares, df, shares = 0.0, 0, 0.0
    for stratum in np.unique(of_training):
        inside = of_training == stratum
        count, weight = int(inside.sum()), float(weights[:, inside].sum())
        squares += float(((sums[inside] * count / weight) ** 2).sum())
        df += count - 1
        shares += weight**2 / count
    return squares / df, shares

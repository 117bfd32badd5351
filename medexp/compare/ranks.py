"""The order of the methods, how firm it is, and which of them a critical-difference diagram would join."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer
from scipy.stats import friedmanchisquare, kendalltau, rankdata, studentized_range

from medexp.compare.bootstrap import Resampling
from medexp.compare.comparison import Ranking
from medexp.compare.paired_tests import group_means
from medexp.compare.units import Cells

_DISTINCT_ORDERS = 200


def ranking(
    cells: Cells, resampling: Resampling, *, metric: str, label: str, higher: bool, by_case: bool
) -> Ranking | None:
    """The methods, best first.

    Args:
        cells: Their values.
        resampling: Draws of groups and trainings.
        metric: Name of the metric.
        label: Class or region, or "mean".
        higher: Whether a higher value is better.
        by_case: Whether a group has a value of its own, so that methods can be ranked within it.

    Returns:
        The ranking, or None where no unit and training has a value for every method.
    """
    common = cells.common()
    if not common.any() or len(cells.methods) < 2:
        return None
    kept = [np.where(common, own, math.nan) for own in cells.values]
    of_group = np.stack([group_means(own, cells.group_of) for own in kept])
    means = np.array([_mean(own) for own in kept])
    sign = -1.0 if higher else 1.0
    order = np.argsort(sign * means, kind="stable")
    resampled = resampling.means(kept)
    ranks = rankdata(sign * resampled[np.isfinite(resampled).all(axis=1)], axis=1, method="average")
    mean_ranks = rankdata(sign * of_group, axis=0).mean(axis=1) if by_case else np.full(len(means), math.nan)
    distance, p = _friedman(of_group) if by_case else (math.nan, math.nan)
    names = [cells.methods[index] for index in order]
    return Ranking(
        metric=metric,
        label=label,
        methods=tuple(names),
        means=tuple(means[order].tolist()),
        chances=tuple(map(tuple, _chances(ranks)[order].tolist())),
        tau=_stability(ranks, rankdata(sign * means)),
        mean_ranks=tuple(mean_ranks[order].tolist()),
        friedman_p=p,
        critical_difference=distance,
        cliques=cliques(names, mean_ranks[order].tolist(), distance),
        n_groups=of_group.shape[1],
    )


def _mean(values: Float[np.ndarray, "units trainings"]) -> float:
    present = np.isfinite(values)
    used = present.any(axis=1)
    return float(np.nanmean(np.nanmean(values[used], axis=1)))


def _chances(ranks: Float[np.ndarray, "resamples methods"]) -> Float[np.ndarray, "methods ranks"]:
    """Share of resamples by method and rank; methods that tie share their ranks."""
    n_methods = ranks.shape[1]
    found = np.zeros((n_methods, n_methods))
    if not len(ranks):
        return np.full_like(found, math.nan)
    for place in range(n_methods):
        low, high = np.floor(ranks[:, place]).astype(int) - 1, np.ceil(ranks[:, place]).astype(int) - 1
        found[place] = np.bincount(low, minlength=n_methods) + np.bincount(high, minlength=n_methods)
    return found / (2 * len(ranks))


def _stability(ranks: Float[np.ndarray, "resamples methods"], observed: Float[np.ndarray, "methods"]) -> float:
    """Mean of Kendall's tau-b between the observed ranks and those of the resamples."""
    counts: np.ndarray
    orders, counts = np.unique(ranks, axis=0, return_counts=True)
    if len(orders) > _DISTINCT_ORDERS:
        # Many methods have many orders; an even choice of the resamples gives the mean to two digits.
        orders = ranks[:: max(1, len(ranks) // _DISTINCT_ORDERS)]
        counts = np.ones(len(orders))
    taus = np.array([kendalltau(observed, order).statistic for order in orders])
    defined = np.isfinite(taus)
    if not defined.any():
        return math.nan
    return float(np.average(taus[defined], weights=counts[defined]))


def _friedman(of_group: Float[np.ndarray, "methods groups"]) -> tuple[float, float]:
    """Nemenyi's critical difference at 5 % and the p-value of Friedman's test; nan with two methods or one group."""
    n_methods, n_groups = of_group.shape
    if n_methods < 3 or n_groups < 2:
        return math.nan, math.nan
    same = (of_group == of_group[:1]).all()
    p = 1.0 if same else float(friedmanchisquare(*of_group).pvalue)
    return critical_difference(n_methods, n_groups), p


def critical_difference(n_methods: int, n_groups: int, alpha: float = 0.05) -> float:
    """Difference of mean ranks that Nemenyi's test finds: q / sqrt(2) sqrt(k (k + 1) / (6 n)).

    Source: J. Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 7 (2006).

    Args:
        n_methods: k.
        n_groups: n.
        alpha: Level.

    Returns:
        The difference.
    """
    q = float(studentized_range.ppf(1 - alpha, n_methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(n_methods * (n_methods + 1) / (6 * n_groups))


def cliques(names: Sequence[str], mean_ranks: Sequence[float], distance: float) -> tuple[tuple[str, ...], ...]:
    """The largest sets of methods, neighbours by mean rank, whose mean ranks differ by at most `distance`.

    >>> cliques(["a", "b", "c"], [1.0, 1.5, 2.5], 0.6)
    (('a', 'b'),)

    Args:
        names: Of the methods.
        mean_ranks: Of the methods.
        distance: The critical difference; nan for none.

    Returns:
        Sets of two methods and more.
    """
    order: Integer[np.ndarray, "methods"] = np.argsort(mean_ranks, kind="stable")
    ranks = np.array(mean_ranks)[order]
    found: list[tuple[int, int]] = []
    for begin in range(len(order)):
        end = max((last for last in range(begin, len(order)) if ranks[last] - ranks[begin] <= distance), default=begin)
        if end > begin and not (found and found[-1][1] >= end):
            found.append((begin, end))
    return tuple(tuple(names[index] for index in order[begin : end + 1]) for begin, end in found)

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, ttest_1samp
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.power import TTestPower

from medexp.compare.verdict import Spread, spread_of


def _crossed(random: np.random.Generator, n: int, s: int, *, seed_sd: float = 0.01, mean: float = 0.0) -> np.ndarray:
    return (
        mean
        + random.normal(size=(n, 1)) * 0.05
        + random.normal(size=(1, s)) * seed_sd
        + random.normal(size=(n, s)) * 0.05
    )


def test_variance_and_degrees_of_freedom_are_those_of_the_analysis_of_variance() -> None:
    n, s = 30, 4
    d = _crossed(np.random.default_rng(0), n, s)
    case, seed = np.meshgrid(range(n), range(s), indexing="ij")
    table = pd.DataFrame({"d": d.ravel(), "case": case.ravel(), "seed": seed.ravel()})
    squares = anova_lm(ols("d ~ C(case) + C(seed)", data=table).fit())["sum_sq"]
    ms_case, ms_seed = squares["C(case)"] / (n - 1), squares["C(seed)"] / (s - 1)
    spread = spread_of(d, np.arange(n))
    assert spread.mean == pytest.approx(d.mean())
    assert spread.standard_error == pytest.approx(math.sqrt((ms_case + ms_seed) / (n * s)))
    expected = (ms_case + ms_seed) ** 2 / (ms_case**2 / (n - 1) + ms_seed**2 / (s - 1))
    assert spread.df == pytest.approx(expected)


def test_where_the_seed_changes_nothing_it_is_the_paired_t_test_over_cases() -> None:
    case = np.random.default_rng(1).normal(0.02, 0.05, size=25)
    spread = spread_of(np.repeat(case[:, None], 3, axis=1), np.arange(25))
    expected = ttest_1samp(case, 0)
    assert (spread.p, spread.df) == pytest.approx((expected.pvalue, 24))
    low, high = expected.confidence_interval()
    assert (spread.mean - spread.half_width(0.05), spread.mean + spread.half_width(0.05)) == pytest.approx((low, high))


def test_where_all_cases_agree_it_is_the_t_test_over_seeds() -> None:
    seeds = np.array([0.01, 0.05, 0.03, 0.02])
    spread = spread_of(np.repeat(seeds[None], 10, axis=0), np.arange(10))
    assert (spread.p, spread.df) == pytest.approx((ttest_1samp(seeds, 0).pvalue, 3))


def test_one_seed_in_several_folds_is_the_t_test_over_folds() -> None:
    folds = np.random.default_rng(2).normal(0.02, 0.05, size=(5, 8))
    d = np.full((40, 5), np.nan)
    for fold in range(5):
        d[8 * fold : 8 * fold + 8, fold] = folds[fold]
    spread = spread_of(d, np.arange(40))
    assert (spread.p, spread.df) == pytest.approx((ttest_1samp(folds.mean(axis=1), 0).pvalue, 4))


def test_trainings_of_several_folds_are_compared_within_their_fold_only() -> None:
    random = np.random.default_rng(3)
    d = np.full((40, 10), np.nan)
    for fold in range(5):
        d[8 * fold : 8 * fold + 8, 2 * fold : 2 * fold + 2] = random.normal(size=(8, 2))
    shifted = d + np.repeat(random.normal(size=5), 8)[:, None]
    one, other = (spread_of(values, np.arange(40)) for values in (d, shifted))
    assert (one.df_trainings, one.v_trainings) == (5, pytest.approx(other.v_trainings))
    assert other.v_groups > one.v_groups


def test_missing_values_leave_the_part_of_trainings_free_of_what_cases_have() -> None:
    random = np.random.default_rng(4)
    d = _crossed(random, 20, 3)
    d[random.random(d.shape) < 0.2] = np.nan
    one, other = (spread_of(values, np.arange(20)) for values in (d, d + random.normal(size=(20, 1))))
    assert one.v_trainings == pytest.approx(other.v_trainings)


def test_a_case_without_any_value_and_a_training_without_any_count_for_nothing() -> None:
    d = _crossed(np.random.default_rng(5), 12, 3)
    padded = np.full((14, 4), np.nan)
    padded[:12, :3] = d
    assert spread_of(padded, np.arange(14)) == spread_of(d, np.arange(12))


def test_copies_of_a_case_in_one_group_add_no_certainty() -> None:
    d = _crossed(np.random.default_rng(6), 10, 3)
    one, copied = spread_of(d, np.arange(10)), spread_of(np.repeat(d, 5, axis=0), np.repeat(np.arange(10), 5))
    assert (copied.standard_error, copied.df) == pytest.approx((one.standard_error, one.df))


@pytest.mark.parametrize("n_trainings", [2, 3])
def test_it_is_the_same_in_any_unit_and_seen_from_either_side(n_trainings: int) -> None:
    d = _crossed(np.random.default_rng(7), 15, n_trainings, mean=0.05)
    one, other = spread_of(d, np.arange(15)), spread_of(-1000 * d, np.arange(15))
    assert other.p == pytest.approx(one.p)
    assert other.half_width(0.05) == pytest.approx(1000 * one.half_width(0.05))


@pytest.mark.parametrize("n_trainings", [2, 3, 5])
def test_p_is_the_level_at_which_the_interval_reaches_zero(n_trainings: int) -> None:
    spread = spread_of(_crossed(np.random.default_rng(8), 15, n_trainings, mean=0.05), np.arange(15))
    assert spread.half_width(spread.p) == pytest.approx(abs(spread.mean))


def test_two_seeds_are_judged_more_carefully_than_satterthwaite_would() -> None:
    spread = Spread(mean=0.1, v_groups=1e-4, df_groups=50, v_trainings=1e-4, df_trainings=1, n_groups=51)
    by_satterthwaite = Spread(mean=0.1, v_groups=2e-4, df_groups=2, v_trainings=math.nan, df_trainings=0, n_groups=3)
    assert spread.df == pytest.approx(4 / (1 / 50 + 1), rel=1e-9)
    assert spread.half_width(0.05) > by_satterthwaite.half_width(0.05)


@pytest.mark.parametrize(
    ("d", "reason"),
    [
        (np.ones((9, 1)), "one training of each"),
        (np.ones((1, 3)), "one group"),
        (np.full((4, 3), np.nan), "no case is defined in both"),
    ],
)
def test_what_cannot_be_judged_says_why(d: np.ndarray, reason: str) -> None:
    spread = spread_of(d, np.arange(len(d)))
    assert reason in spread.reason
    assert math.isnan(spread.p)
    assert math.isnan(spread.smallest_difference(0.05))


def test_methods_that_are_equal_everywhere_are_not_separable() -> None:
    assert spread_of(np.zeros((20, 3)), np.arange(20)).p == 1


def test_a_difference_without_any_spread_is_judged_by_its_signs() -> None:
    assert spread_of(np.full((4, 3), 0.1), np.arange(4)).p == pytest.approx(2 / 2**4)


@pytest.mark.parametrize("n", [4, 20, 200])
def test_smallest_difference_is_that_of_the_t_test(n: int) -> None:
    spread = Spread(mean=0.0, v_groups=1 / n, df_groups=n - 1, v_trainings=math.nan, df_trainings=0, n_groups=n)
    of_known_sd = TTestPower().solve_power(nobs=n, alpha=0.05, power=0.8, alternative="two-sided")
    # The standard deviation is estimated: in half of the studies it comes out below this share of the true one.
    share = math.sqrt(chi2.median(n - 1) / (n - 1))
    assert spread.smallest_difference(0.05) == pytest.approx(of_known_sd / share, rel=0.01)


def test_training_sets_that_favour_one_method_add_to_the_variance() -> None:
    random = np.random.default_rng(10)
    n, folds = 100, 5
    d = np.full((n, 2 * folds), np.nan)
    for fold in range(folds):
        d[20 * fold : 20 * fold + 20, 2 * fold : 2 * fold + 2] = random.normal(size=(20, 2)) * 0.05
    favoured = d + np.repeat([-0.2, -0.1, 0.0, 0.1, 0.2], 20)[:, None]
    assert spread_of(favoured, np.arange(n)).v_sets > 100 * spread_of(d, np.arange(n)).v_groups
    # Then the folds decide, as if each were one value.
    spread = spread_of(favoured, np.arange(n))
    by_fold = np.nanmean(favoured.reshape(folds, -1), axis=1)
    assert spread.standard_error == pytest.approx(by_fold.std(ddof=1) / math.sqrt(folds))


def test_equal_methods_are_rarely_told_apart() -> None:
    random = np.random.default_rng(9)
    repetitions = 400
    found = [spread_of(_crossed(random, 52, 3), np.arange(52)).p <= 0.05 for _ in range(repetitions)]
    # The full table is docs/comparing.md's; here a chance of 8 % and three standard errors.
    assert np.mean(found) <= 0.08 + 3 * math.sqrt(0.08 * 0.92 / repetitions)


def test_what_a_seed_does_in_all_folds_counts_as_one_value_a_seed() -> None:
    random = np.random.default_rng(11)
    seeds = np.array([0.02, 0.3, 0.05])
    d = np.full((40, 15), np.nan)
    for fold in range(5):
        d[8 * fold : 8 * fold + 8, 3 * fold : 3 * fold + 3] = seeds + random.normal(size=(8, 3)) * 1e-6
    alone = spread_of(d, np.arange(40))
    shared = spread_of(d, np.arange(40), np.tile([0, 1, 2], 5))
    assert alone.p < 0.05 < shared.p
    assert shared.df_seeds == 2
    # The variance of the mean of three seeds, whatever the number of folds.
    assert shared.v_seeds == pytest.approx(seeds.var(ddof=1) / 3, rel=1e-3)


def test_seeds_that_recur_nowhere_are_no_part() -> None:
    d = _crossed(np.random.default_rng(12), 30, 4)
    assert spread_of(d, np.arange(30), np.arange(4)) == spread_of(d, np.arange(30))


@pytest.mark.slow
def test_equal_methods_are_rarely_told_apart_where_seeds_act_alike_in_all_folds() -> None:
    random = np.random.default_rng(13)
    found = []
    for _ in range(600):
        d = np.full((100, 15), np.nan)
        shift = random.normal(size=3) * 0.02
        for fold in range(5):
            d[20 * fold : 20 * fold + 20, 3 * fold : 3 * fold + 3] = _crossed(random, 20, 3, seed_sd=0.0) + shift
        found.append(spread_of(d, np.arange(100), np.tile([0, 1, 2], 5)).p <= 0.05)
    # 600 studies: .05 +- .009
    assert np.mean(found) < 0.09

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import permutation_test, wilcoxon
from statsmodels.stats.multitest import multipletests

from medexp.compare.paired_tests import effect_size, group_means, holm, permutation_p, rank_biserial, wilcoxon_p


def test_all_flips_of_few_groups_agree_with_scipy() -> None:
    d = np.random.default_rng(0).normal(0.4, 1, size=10)
    exact = permutation_test(
        (d, np.zeros(10)), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=2**11
    )
    assert permutation_p([d], resamples=100, seed=0)[0] == pytest.approx(exact.pvalue)


def test_drawn_flips_come_near_all_flips_whatever_else_is_tested() -> None:
    d = np.random.default_rng(1).normal(0.4, 1, size=14)
    signs = 1 - 2 * ((np.arange(2**14)[:, None] >> np.arange(14)) & 1)
    exact = np.mean(np.abs(signs @ d) >= abs(d.sum()) * (1 - 1e-9))
    alone = permutation_p([d], resamples=20_000, seed=0)
    assert alone[0] == pytest.approx(exact, abs=4 * math.sqrt(exact / 20_000))
    assert permutation_p([d[:5], d, d[:0]], resamples=20_000, seed=0)[1] == alone[0]


def test_a_drawn_p_value_is_never_zero() -> None:
    assert permutation_p([np.ones(60)], resamples=999, seed=0)[0] == pytest.approx(1 / 1000)


def test_signed_ranks_agree_with_scipy() -> None:
    d = np.random.default_rng(2).normal(0.2, 1, size=30)
    assert wilcoxon_p(d) == pytest.approx(wilcoxon(d, method="exact").pvalue)
    tied = np.round(d, 1)
    expected = wilcoxon(tied, zero_method="pratt", method="asymptotic").pvalue
    assert wilcoxon_p(tied) == pytest.approx(expected)


def test_differences_that_are_rounding_are_ties() -> None:
    d = np.array([0.1, 0.1 + 0.2 - 0.3, -0.2, 0.3])
    assert rank_biserial(d) == rank_biserial(np.array([0.1, 0.0, -0.2, 0.3]))
    assert wilcoxon_p(np.zeros(5)) == 1


def test_rank_biserial_is_the_share_of_favourable_ranks_minus_the_others() -> None:
    assert rank_biserial(np.array([1.0, 2.0, -3.0, 4.0])) == pytest.approx((1 + 2 + 4 - 3) / 10)
    assert math.isnan(rank_biserial(np.zeros(3)))


def test_effect_size_is_the_mean_in_standard_deviations() -> None:
    d = np.array([0.0, 1.0, 2.0])
    assert effect_size(d) == pytest.approx(1.0)
    assert math.isnan(effect_size(np.full(5, 0.3)))
    assert math.isnan(effect_size(np.array([1.0])))


def test_holm_corrects_what_is_defined_and_leaves_the_rest() -> None:
    p = [0.01, math.nan, 0.04, 0.03]
    corrected = holm(p)
    assert math.isnan(corrected[1])
    assert [corrected[i] for i in (0, 2, 3)] == pytest.approx(multipletests([0.01, 0.04, 0.03], method="holm")[1])
    assert holm([]) == []


def test_a_group_is_the_mean_of_its_cases_and_a_case_that_of_its_trainings() -> None:
    values = np.array([[1.0, 3.0], [np.nan, 4.0], [5.0, 7.0], [np.nan, np.nan]])
    assert group_means(values, np.array([0, 0, 1, 2])).tolist() == [3.0, 6.0]

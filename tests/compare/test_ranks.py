from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import friedmanchisquare

from medexp.compare.bootstrap import Resampling
from medexp.compare.comparison import Ranking
from medexp.compare.figures import draw_critical_difference
from medexp.compare.ranks import cliques, critical_difference, ranking
from medexp.compare.units import Cells


def _ranking(values: np.ndarray, *, higher: bool = True, by_case: bool = True) -> Ranking | None:
    m, n, s = values.shape
    units = tuple(f"c{index}" for index in range(n))
    cells = Cells(tuple("abcdef"[:m]), units, np.arange(n), units, tuple(("0", str(seed)) for seed in range(s)), values)
    draws = Resampling.of(cells, resamples=500, seed=0)
    return ranking(cells, draws, metric="dice", label="mean", higher=higher, by_case=by_case)


# J. Demsar, JMLR 7 (2006), table 5: critical values of the two-tailed Nemenyi test at 5 %.
@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_difference_is_that_of_the_published_table(k: int, q: float) -> None:
    assert critical_difference(k, 14) == pytest.approx(q * np.sqrt(k * (k + 1) / (6 * 14)), rel=1e-3)


def test_order_follows_the_direction_of_the_metric() -> None:
    values = np.array([0.5, 0.7, 0.6])[:, None, None] + np.random.default_rng(0).normal(size=(1, 10, 2)) * 0.1
    assert _ranking(values).methods == ("b", "c", "a")
    assert _ranking(values, higher=False).methods == ("a", "c", "b")


def test_a_firm_order_is_the_same_in_every_resample() -> None:
    values = np.array([0.5, 0.7, 0.6])[:, None, None] + np.zeros((1, 10, 2))
    found = _ranking(values)
    assert found.tau == pytest.approx(1.0)
    assert found.chances == ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    assert found.mean_ranks == (1.0, 2.0, 3.0)


def test_equal_methods_share_their_ranks() -> None:
    values = np.repeat(np.random.default_rng(1).normal(size=(1, 12, 3)), 2, axis=0)
    found = _ranking(values)
    assert np.array(found.chances) == pytest.approx(np.full((2, 2), 0.5))


def test_chances_are_a_distribution_over_ranks() -> None:
    found = _ranking(np.random.default_rng(2).normal(size=(4, 15, 3)))
    assert np.sum(found.chances, axis=1) == pytest.approx(1.0)
    assert np.sum(found.chances, axis=0) == pytest.approx(1.0)


def test_friedman_sees_the_mean_over_trainings() -> None:
    values = np.random.default_rng(3).normal(size=(3, 20, 2))
    assert _ranking(values).friedman_p == pytest.approx(friedmanchisquare(*values.mean(axis=2)).pvalue)


def test_only_cases_that_all_methods_have_are_ranked() -> None:
    values = np.random.default_rng(4).normal(size=(3, 20, 2))
    values[1, :5] = np.nan
    assert _ranking(values).n_groups == 15
    values[2, 5:] = np.nan
    assert _ranking(values) is None


def test_methods_are_not_ranked_within_cases_that_have_no_value_of_their_own() -> None:
    found = _ranking(np.random.default_rng(5).normal(size=(3, 20, 2)), by_case=False)
    assert np.isnan(found.mean_ranks).all()
    assert found.cliques == ()


def test_the_diagram_names_every_method_with_its_mean_rank(tmp_path: Path) -> None:
    found = _ranking(np.random.default_rng(6).normal(size=(4, 20, 2)))
    svg = draw_critical_difference(found, tmp_path / "cd.svg").read_text()
    for name, rank in zip(found.methods, found.mean_ranks, strict=True):
        assert f"{name}  {rank:.2f}" in svg or f"{rank:.2f}  {name}" in svg
    assert f"CD {found.critical_difference:.2f}" in svg
    assert svg == draw_critical_difference(found, tmp_path / "again.svg").read_text()


def test_cliques_are_the_largest_sets_within_the_critical_difference() -> None:
    assert cliques(["a", "b", "c", "d"], [1.0, 1.8, 2.5, 4.0], 1.0) == (("a", "b"), ("b", "c"))
    assert cliques(["b", "a"], [2.0, 1.0], 1.5) == (("a", "b"),)

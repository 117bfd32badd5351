from __future__ import annotations

import numpy as np
import pytest
from made_up_rows import auroc_rows
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score

from medexp.compare import bootstrap as ours
from medexp.compare.bootstrap import Resampling, interval, within_unit
from medexp.compare.units import Cells, pseudo_values
from medexp.metrics.auroc import AUROC


def _cells(values: np.ndarray, group_of: np.ndarray | None = None) -> Cells:
    n, s = values.shape
    group_of = np.arange(n) if group_of is None else group_of
    groups = tuple(f"g{index}" for index in range(group_of.max() + 1))
    trainings = tuple(("0", str(seed)) for seed in range(s))
    return Cells(("a",), tuple(f"c{index}" for index in range(n)), group_of, groups, trainings, values[None])


def _means(values: np.ndarray, resamples: int = 10_000, **knobs: np.ndarray) -> np.ndarray:
    return Resampling.of(_cells(values, **knobs), resamples=resamples, seed=0).means([values])[:, 0]


def test_with_one_training_it_is_the_bootstrap_of_the_mean_over_cases() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=50)
    expected = bootstrap((values,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(0))
    low, high = interval(_means(values[:, None]))
    error = expected.standard_error / 20
    assert low == pytest.approx(expected.confidence_interval.low, abs=error)
    assert high == pytest.approx(expected.confidence_interval.high, abs=error)


def test_both_levels_are_drawn() -> None:
    random = np.random.default_rng(1)
    case, seed = random.normal(size=30), random.normal(size=4)
    spread = _means(case[:, None] + seed).var()
    # The bootstrap's variance of a mean of n is the population's variance over n, here of both levels.
    assert spread == pytest.approx(case.var() / 30 + seed.var() / 4, rel=0.05)


def test_groups_are_drawn_and_not_their_cases() -> None:
    value = np.random.default_rng(2).normal(size=20)
    spread = _means(np.repeat(value, 5)[:, None], group_of=np.repeat(np.arange(20), 5)).var()
    assert spread == pytest.approx(value.var() / 20, rel=0.05)


def test_folds_are_drawn_within_themselves() -> None:
    values = np.full((20, 2), np.nan)
    values[:10, 0], values[10:, 1] = 1.0, 3.0
    assert _means(values, 200) == pytest.approx(2.0)


def test_resamples_do_not_depend_on_how_many_are_made_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(3).normal(size=(10, 3))
    at_once = _means(values, 300)
    monkeypatch.setattr(ours, "_CHUNK", 700)
    assert _means(values, 300) == pytest.approx(at_once)


def test_resamples_of_two_arrays_use_the_same_draws() -> None:
    values = np.random.default_rng(4).normal(size=(10, 3))
    found = Resampling.of(_cells(values), resamples=200, seed=0).means([values, values + 1.0])
    assert found[:, 1] - found[:, 0] == pytest.approx(1.0)


def test_pseudo_values_are_resampled_as_an_area_that_is_computed_anew() -> None:
    random = np.random.default_rng(5)
    truths = np.arange(90) % 3 == 0
    scores = random.normal(size=90) + truths
    pseudo = np.array(list(pseudo_values(auroc_rows(truths, scores), AUROC())["ill"].values()))
    drawn = random.integers(0, 90, size=(600, 90))
    anew = [roc_auc_score(truths[own], scores[own]) for own in drawn]
    assert _means(pseudo[:, None]).std() == pytest.approx(np.std(anew), rel=0.1)


def test_the_interval_of_a_fraction_stays_between_0_and_1() -> None:
    low, high = within_unit((np.array([-0.1, 0.2]), np.array([0.5, 1.1])), "fraction")
    assert (low.tolist(), high.tolist()) == ([0.0, 0.2], [0.5, 1.0])
    assert within_unit((np.array([-0.1]), np.array([7.0])), "mm")[1].tolist() == [7.0]


def test_an_interval_that_is_mostly_undefined_is_undefined() -> None:
    assert np.isnan(interval(np.array([1.0, np.nan, np.nan]))).all()

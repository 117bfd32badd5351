from __future__ import annotations

import math

import numpy as np
import pytest
from labelled_images import NAMES, grades, rows_of, scored, value_of
from sklearn.metrics import cohen_kappa_score

from medexp.core.errors import DataError, UsageError
from medexp.metrics.kappa import Kappa


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_that_of_scikit_learn(weights, seed):
    scores, truths = grades(seed)
    found = value_of(Kappa(name="kappa", weights=weights), scores, truths)
    expected = cohen_kappa_score(truths, scores.argmax(axis=1), weights=weights, labels=range(4))
    assert found["mean"] == pytest.approx(expected, abs=1e-12)
    for value, name in enumerate(NAMES):
        one = cohen_kappa_score(truths == value, scores.argmax(axis=1) == value)
        assert found[name] == pytest.approx(one, abs=1e-12)


def test_a_grade_beside_the_true_one_is_a_lesser_error_by_rank_alone():
    truths = np.array([0, 1, 2, 3] * 5)
    near, far = truths.copy(), truths.copy()
    near[0], far[0] = 1, 3
    plain, ranked = (Kappa(name="kappa", weights=weights) for weights in (None, "quadratic"))
    values = {m: [value_of(m, np.eye(4)[given], truths)["mean"] for given in (near, far)] for m in (plain, ranked)}
    assert values[plain][0] == pytest.approx(values[plain][1])
    assert values[ranked][0] > values[ranked][1] + 0.1


@pytest.mark.parametrize("weights", [None, "quadratic"])
def test_agreement_is_1_and_one_answer_for_all_is_0(weights):
    metric, truths = Kappa(name="kappa", weights=weights), np.array([0, 1, 2, 1])
    assert set(value_of(metric, np.eye(3)[truths], truths).values()) == {1.0}
    assert value_of(metric, np.eye(3)[[1, 1, 1, 1]], truths)["mean"] == pytest.approx(0.0, abs=1e-12)


def test_where_only_one_class_is_true_and_predicted_it_is_undefined():
    found = value_of(Kappa(name="kappa", weights=None), np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 0]))
    assert all(math.isnan(value) for value in found.values())
    assert math.isnan(Kappa(name="kappa", weights=None).aggregate([])["mean"])


def test_what_has_no_meaning_is_refused():
    with pytest.raises(UsageError, match=r"kappa\.weights needs null, linear or quadratic, got cubic"):
        Kappa(name="kappa", weights="cubic")
    several = scored("x", [0.9, 0.8], exclusive=False), scored("x", [1, 1], exclusive=False)
    with pytest.raises(UsageError, match="kappa needs classes that exclude each other"):
        Kappa(name="kappa", weights=None).rows(*several)


def test_rows_of_a_case_that_lacks_a_class_are_refused():
    metric = Kappa(name="kappa", weights=None)
    rows = rows_of(metric, *grades(0, cases=3))
    with pytest.raises(DataError, match="in every case"):
        metric.aggregate(rows[:-1])

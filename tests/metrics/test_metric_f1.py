from __future__ import annotations

import math

import numpy as np
import pytest
from labelled_images import NAMES, findings, grades, rows_of, scored, value_of
from sklearn.metrics import f1_score

from medexp.core.errors import UsageError
from medexp.metrics.f1 import F1


def test_of_exclusive_classes_the_most_probable_counts_as_in_scikit_learn():
    scores, truths = grades(0)
    found = value_of(F1(threshold=0.5), scores, truths)
    expected = f1_score(truths, scores.argmax(axis=1), average=None)
    assert [found[name] for name in NAMES] == pytest.approx(expected.tolist(), abs=1e-12)
    assert found["mean"] == pytest.approx(expected.mean(), abs=1e-12)


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_of_several_labels_those_from_the_threshold_on_count_as_in_scikit_learn(threshold):
    scores, truths = findings(0, decimals=1)
    found = value_of(F1(threshold=threshold), scores, truths, exclusive=False)
    expected = f1_score(truths, scores >= threshold, average=None)
    assert [found[name] for name in NAMES[:3]] == pytest.approx(expected.tolist(), abs=1e-12)


def test_a_class_that_is_neither_true_nor_predicted_is_undefined_and_one_that_is_missed_is_0():
    scores = np.array([[0.9, 0.1, 0.0], [0.8, 0.2, 0.0]])
    found = value_of(F1(threshold=0.5), scores, np.array([0, 1]))
    assert found["a"] == pytest.approx(2 / 3)
    assert found["b"] == 0.0
    assert math.isnan(found["c"])
    assert found["mean"] == pytest.approx(1 / 3)


def test_a_row_tells_what_is_predicted_and_what_is_true():
    rows = F1(threshold=0.5).rows(scored("x", [0.6, 0.5, 0.4], exclusive=False), scored("x", [1, 0, 1]))
    assert [(row.label, row.value, str(row.outcome)) for row in rows] == [
        ("a", 1.0, "positive"),
        ("b", 1.0, "negative"),
        ("c", 0.0, "positive"),
    ]


def test_a_case_that_is_drawn_twice_counts_as_two():
    scores, truths = grades(3, cases=20)
    rows = rows_of(F1(threshold=0.5), scores, truths)
    twice = F1(threshold=0.5).aggregate([*rows, *rows[:40]])
    again = np.concatenate([np.arange(20), np.arange(10)])
    assert twice == pytest.approx(value_of(F1(threshold=0.5), scores[again], truths[again]), nan_ok=True)


def test_a_threshold_beyond_probabilities_is_refused():
    with pytest.raises(UsageError, match=r"f1\.threshold needs a value in \[0, 1\], got 50"):
        F1(threshold=50.0)

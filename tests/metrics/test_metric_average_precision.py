from __future__ import annotations

import math

import numpy as np
import pytest
from labelled_images import NAMES, findings, grades, value_of
from sklearn.metrics import average_precision_score

from medexp.metrics.average_precision import AveragePrecision


@pytest.mark.parametrize("decimals", [8, 1])
def test_it_is_that_of_scikit_learn_ties_included(decimals):
    scores, truths = findings(0, decimals=decimals)
    found = value_of(AveragePrecision(), scores, truths, exclusive=False)
    expected = average_precision_score(truths, scores, average=None)
    assert [found[name] for name in NAMES[:3]] == pytest.approx(expected.tolist(), abs=1e-12)
    assert found["mean"] == pytest.approx(expected.mean(), abs=1e-12)


def test_of_classes_that_exclude_each_other_each_is_compared_with_the_rest():
    scores, truths = grades(1)
    found = value_of(AveragePrecision(), scores, truths)
    expected = average_precision_score(np.eye(4)[truths], scores, average="macro")
    assert found["mean"] == pytest.approx(expected, abs=1e-12)


def test_a_constant_score_has_the_share_of_the_class():
    found = value_of(AveragePrecision(), np.full((8, 2), 0.5), np.array([0, 0, 0, 1, 1, 1, 1, 1]))
    assert found == pytest.approx({"a": 3 / 8, "b": 5 / 8, "mean": 0.5})


def test_a_class_that_no_image_has_is_undefined_and_left_out_of_the_mean():
    found = value_of(AveragePrecision(), np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]]), np.array([0, 1]))
    assert math.isnan(found["c"])
    assert found["mean"] == 1.0
    assert math.isnan(AveragePrecision().aggregate([])["mean"])

from __future__ import annotations

import math

import numpy as np
import pytest
from labelled_images import NAMES, findings, grades, rows_of, value_of
from sklearn.metrics import brier_score_loss

from medexp.metrics.brier import Brier


def test_each_label_has_the_score_of_scikit_learn():
    scores, truths = findings(0)
    found = value_of(Brier(), scores, truths, exclusive=False)
    expected = [brier_score_loss(truths[:, k], scores[:, k]) for k in range(3)]
    assert [found[name] for name in NAMES[:3]] == pytest.approx(expected, abs=1e-12)
    assert found["mean"] == pytest.approx(np.mean(expected), abs=1e-12)


def test_times_the_number_of_classes_it_is_the_sum_of_brier():
    scores, truths = grades(1)
    by_image = ((scores - np.eye(4)[truths]) ** 2).sum(axis=1)
    assert 4 * value_of(Brier(), scores, truths)["mean"] == pytest.approx(by_image.mean(), abs=1e-12)


def test_two_exclusive_classes_have_the_usual_score_of_one():
    scores, truths = grades(2, classes=2)
    found = value_of(Brier(), scores, truths)
    assert found["a"] == pytest.approx(found["b"], abs=1e-12)
    assert found["mean"] == pytest.approx(brier_score_loss(truths, scores[:, 1]), abs=1e-12)


def test_every_image_has_a_value_of_its_own():
    rows = rows_of(Brier(), np.array([[0.7, 0.2, 0.1]]), np.array([0]))
    assert [row.value for row in rows] == pytest.approx([0.09, 0.04, 0.01])
    assert Brier().per_case
    assert math.isnan(Brier().aggregate([])["mean"])

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from labelled_images import NAMES, findings, grades, scored, value_of
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from medexp.core.errors import UsageError
from medexp.metrics.calibration_error import CalibrationError


@pytest.mark.parametrize("n_bins", [1, 7, 15])
@pytest.mark.parametrize("seed", range(3))
def test_of_the_top_label_it_is_that_of_torchmetrics(n_bins, seed):
    scores, truths = grades(seed)
    found = value_of(CalibrationError(of="top_label", n_bins=n_bins), scores, truths)
    expected = multiclass_calibration_error(
        torch.from_numpy(scores), torch.from_numpy(truths), num_classes=4, n_bins=n_bins
    )
    assert found["mean"] == pytest.approx(expected.item(), abs=1e-6)


def by_hand(scores: np.ndarray, truths: np.ndarray, n_bins: int) -> float:
    total = 0.0
    for low in range(n_bins):
        inside = (scores > low / n_bins) & (scores <= (low + 1) / n_bins)
        if inside.any():
            total += inside.mean() * abs(scores[inside].mean() - truths[inside].mean())
    return total


@pytest.mark.parametrize("decimals", [8, 1])
def test_of_several_labels_each_is_compared_with_its_own_truth(decimals):
    scores, truths = findings(0, decimals=decimals)
    scores = scores.clip(0.01, 1.0)
    found = value_of(CalibrationError(of="classes", n_bins=10), scores, truths, exclusive=False)
    expected = [by_hand(scores[:, k], truths[:, k], 10) for k in range(3)]
    assert [found[name] for name in NAMES[:3]] == pytest.approx(expected, abs=1e-12)
    assert found["mean"] == pytest.approx(np.mean(expected), abs=1e-12)


def test_one_label_alone_is_judged_as_torchmetrics_judges_two_classes():
    scores, truths = findings(1, classes=1)
    found = value_of(CalibrationError(of="classes", n_bins=15), scores, truths, exclusive=False)
    sure = np.where(scores > 0.5, scores, 1 - scores)[:, 0]
    expected = binary_calibration_error(
        torch.from_numpy(sure), torch.from_numpy(((scores > 0.5) == truths)[:, 0].astype(int)), n_bins=15
    )
    assert value_of(
        CalibrationError(of="top_label", n_bins=15),
        np.concatenate([1 - scores, scores], axis=1),
        truths[:, 0].astype(int),
    )["mean"] == pytest.approx(expected.item(), abs=1e-6)
    assert found["a"] == pytest.approx(by_hand(scores[:, 0], truths[:, 0], 15), abs=1e-12)


def test_confidence_that_is_right_as_often_as_it_says_has_no_error():
    scores, truths = np.array([[0.75, 0.25]] * 4), np.array([0, 0, 0, 1])
    assert value_of(CalibrationError(of="top_label", n_bins=15), scores, truths)["mean"] == pytest.approx(
        0.0, abs=1e-12
    )


def test_confidence_of_0_belongs_to_the_first_bin():
    found = value_of(CalibrationError(of="classes", n_bins=2), np.array([[0.0, 1.0]] * 3), np.array([0, 0, 1]))
    assert found == pytest.approx({"a": 2 / 3, "b": 2 / 3, "mean": 2 / 3})


def test_what_has_no_meaning_is_refused():
    with pytest.raises(UsageError, match=r"calibration_error\.of needs top_label or classes, got all"):
        CalibrationError(of="all", n_bins=15)
    with pytest.raises(UsageError, match=r"calibration_error\.n_bins needs a value >= 1, got 0"):
        CalibrationError(of="classes", n_bins=0)
    several = scored("x", [0.9, 0.8], exclusive=False), scored("x", [1, 1], exclusive=False)
    with pytest.raises(UsageError, match="choose of=classes"):
        CalibrationError(of="top_label", n_bins=15).rows(*several)
    assert math.isnan(CalibrationError(of="top_label", n_bins=15).aggregate([])["mean"])

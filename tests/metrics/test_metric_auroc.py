from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_auroc

from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.types import Prediction, StructureClass
from medexp.metrics.accuracy import Accuracy
from medexp.metrics.auroc import AUROC

CLASSES = tuple(StructureClass(name, 0, value) for value, name in enumerate("abc"))


def scored(case_id: str, scores, *, exclusive: bool = True) -> Prediction:
    geometry = Geometry.from_spacing((2, 2), (1.0, 1.0))
    return Prediction(case_id, case_id, geometry, CLASSES, exclusive=exclusive, scores=np.array(scores, dtype=float))


def truth(case_id: str, label: int) -> Prediction:
    return scored(case_id, np.eye(3)[label])


def rows_of(metric, scores, labels):
    pairs = [
        (scored(str(i), own), truth(str(i), label)) for i, (own, label) in enumerate(zip(scores, labels, strict=True))
    ]
    return [row for prediction, reference in pairs for row in metric.rows(prediction, reference)]


@pytest.mark.parametrize("decimals", [8, 1])
def test_the_area_is_that_of_torchmetrics_ties_included(decimals):
    random = np.random.default_rng(0)
    scores = random.random((60, 3)).round(decimals)
    labels = random.integers(0, 3, size=60)
    found = AUROC().aggregate(rows_of(AUROC(), scores, labels))
    for value, structure in enumerate(CLASSES):
        expected = binary_auroc(torch.from_numpy(scores[:, value]), torch.from_numpy((labels == value).astype(int)))
        assert found[structure.name] == pytest.approx(expected.item(), abs=1e-6)
        of_class, others = scores[labels == value, value], scores[labels != value, value]
        won = (of_class[:, None] > others) + (of_class[:, None] == others) / 2
        assert found[structure.name] == pytest.approx(np.mean(won), abs=1e-12)
    assert found["mean"] == pytest.approx(np.mean([found[structure.name] for structure in CLASSES]), abs=1e-12)


def test_a_constant_score_is_one_half():
    found = AUROC().aggregate(rows_of(AUROC(), np.full((6, 3), 1 / 3), [0, 1, 2, 0, 1, 2]))
    assert set(found.values()) == {0.5}


def test_a_class_that_all_or_no_images_have_is_undefined_and_left_out_of_the_mean():
    found = AUROC().aggregate(rows_of(AUROC(), [[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]], [0, 1]))
    assert math.isnan(found["c"])
    assert found["mean"] == 1.0
    assert math.isnan(AUROC().aggregate([])["mean"])


def test_a_row_holds_the_score_and_whether_the_class_is_true():
    rows = AUROC().rows(scored("x", [0.7, 0.2, 0.1]), truth("x", 1))
    assert [(row.label, row.score, str(row.outcome)) for row in rows] == [
        ("a", 0.7, "negative"),
        ("b", 0.2, "positive"),
        ("c", 0.1, "negative"),
    ]
    assert all(math.isnan(row.value) for row in rows)


def test_accuracy_is_the_share_of_right_images_and_balanced_that_of_the_classes():
    scores = [[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.5, 0.5, 0.0], [0.1, 0.9, 0.0]]
    labels = [0, 0, 0, 0]
    plain, balanced = Accuracy(balanced=False), Accuracy(balanced=True)
    assert plain.aggregate(rows_of(plain, scores, labels)) == {"a": 0.75, "mean": 0.75}
    scores, labels = [*scores, [0.0, 0.1, 0.9]], [*labels, 1]
    assert plain.aggregate(rows_of(plain, scores, labels)) == {"a": 0.75, "b": 0.0, "mean": 0.6}
    assert balanced.aggregate(rows_of(balanced, scores, labels))["mean"] == 0.375


def test_accuracy_is_refused_where_several_labels_may_hold():
    with pytest.raises(UsageError, match="accuracy needs classes that exclude each other"):
        Accuracy(balanced=False).rows(scored("x", [1, 1, 0], exclusive=False), truth("x", 0))


@pytest.mark.parametrize("metric", [AUROC(), Accuracy(balanced=False)])
def test_predictions_of_other_cases_or_without_scores_are_refused(metric):
    with pytest.raises(DataError, match="another case"):
        metric.rows(scored("x", [1, 0, 0]), truth("y", 0))
    geometry = Geometry.from_spacing((2, 2), (1.0, 1.0))
    with pytest.raises(DataError, match="has no scores"):
        metric.rows(Prediction("x", "x", geometry, CLASSES), truth("x", 0))

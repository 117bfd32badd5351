from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torchmetrics.functional.classification import multiclass_accuracy

from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.types import Prediction, StructureClass
from medexp.metrics.accuracy import Accuracy

CONF = Path(__file__).parents[2] / "conf" / "metrics" / "accuracy.yaml"
CLASSES = tuple(StructureClass(name, 0, value) for value, name in enumerate("abc"))


def scored(case_id: str, scores, *, exclusive: bool = True) -> Prediction:
    geometry = Geometry.from_spacing((2, 2), (1.0, 1.0))
    return Prediction(case_id, case_id, geometry, CLASSES, exclusive=exclusive, scores=np.array(scores, dtype=float))


def rows_of(metric, scores, labels):
    pairs = [
        (scored(str(i), own), scored(str(i), np.eye(3)[label]))
        for i, (own, label) in enumerate(zip(scores, labels, strict=True))
    ]
    return [row for prediction, reference in pairs for row in metric.rows(prediction, reference)]


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("present", [3, 2])
def test_accuracy_is_that_of_torchmetrics_over_images_or_over_classes(balanced, present):
    random = np.random.default_rng(0)
    scores = random.random((50, 3))
    scores[:, present:] = 0
    labels = random.choice(present, size=50, p=np.array([0.7, 0.2, 0.1])[:present] / sum([0.7, 0.2, 0.1][:present]))
    metric = Accuracy(balanced=balanced)
    found = metric.aggregate(rows_of(metric, scores, labels))
    logits, truth = torch.from_numpy(scores), torch.from_numpy(labels)
    average = "macro" if balanced else "micro"
    expected = multiclass_accuracy(logits, truth, num_classes=3, average=average).item()
    by_class = multiclass_accuracy(logits, truth, num_classes=3, average="none")
    assert found["mean"] == pytest.approx(expected, abs=1e-6)
    assert [found[name] for name in "abc"[:present]] == pytest.approx(by_class[:present].tolist(), abs=1e-6)


def test_each_image_has_one_row_under_its_true_class_of_1_or_0():
    rows = rows_of(Accuracy(balanced=False), [[0.9, 0.1, 0.0], [0.9, 0.1, 0.0]], [0, 1])
    assert [(row.label, row.value, row.outcome) for row in rows] == [("a", 1.0, ""), ("b", 0.0, "")]
    assert Accuracy(balanced=False).per_case


def test_of_equal_scores_the_first_class_counts():
    rows = rows_of(Accuracy(balanced=False), [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0]], [0, 1])
    assert [row.value for row in rows] == [1.0, 0.0]


def test_no_image_has_no_accuracy():
    assert math.isnan(Accuracy(balanced=True).aggregate([])["mean"])


def test_several_labels_at_once_are_refused():
    with pytest.raises(UsageError, match="accuracy needs classes that exclude each other"):
        Accuracy(balanced=False).rows(scored("x", [1, 1, 0], exclusive=False), scored("x", [1, 0, 0]))


def test_predictions_of_other_cases_or_without_scores_are_refused():
    metric = Accuracy(balanced=False)
    with pytest.raises(DataError, match="another case"):
        metric.rows(scored("x", [1, 0, 0]), scored("y", [1, 0, 0]))
    with pytest.raises(DataError, match="has no scores"):
        metric.rows(Prediction("x", "x", Geometry.from_spacing((2, 2), (1.0, 1.0)), CLASSES), scored("x", [1, 0, 0]))


def test_the_option_file_says_which_mean():
    metric = instantiate(OmegaConf.load(CONF))["accuracy"]
    assert not metric.balanced
    assert metric.definition()["aggregation"] == "mean over images"
    assert Accuracy(balanced=True).definition()["aggregation"] == "mean over classes"

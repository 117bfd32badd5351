from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torchmetrics.functional.classification import binary_auroc

from medexp.core.errors import DataError
from medexp.core.geometry import Geometry
from medexp.core.types import Prediction, StructureClass
from medexp.metrics.auroc import AUROC

CONF = Path(__file__).parents[2] / "conf" / "metrics" / "auroc.yaml"
CLASSES = tuple(StructureClass(name, 0, value) for value, name in enumerate("abc"))


def scored(case_id: str, scores) -> Prediction:
    geometry = Geometry.from_spacing((2, 2), (1.0, 1.0))
    return Prediction(case_id, case_id, geometry, CLASSES, scores=np.array(scores, dtype=float))


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


def test_two_classes_that_exclude_each_other_have_one_value():
    scores = np.random.default_rng(1).random(30).round(1)
    labels = np.random.default_rng(2).integers(0, 2, size=30)
    found = AUROC().aggregate(rows_of(AUROC(), np.stack([1 - scores, scores, np.zeros(30)], axis=1), labels))
    assert found["a"] == pytest.approx(found["b"], abs=1e-12)


def test_predictions_of_other_cases_or_without_scores_are_refused():
    with pytest.raises(DataError, match="another case"):
        AUROC().rows(scored("x", [1, 0, 0]), truth("y", 0))
    geometry = Geometry.from_spacing((2, 2), (1.0, 1.0))
    with pytest.raises(DataError, match="has no scores"):
        AUROC().rows(Prediction("x", "x", geometry, CLASSES), truth("x", 0))


def test_no_image_has_a_value_of_its_own_and_the_option_file_has_no_knobs():
    assert not AUROC().per_case
    assert isinstance(instantiate(OmegaConf.load(CONF))["auroc"], AUROC)

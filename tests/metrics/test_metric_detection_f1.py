from __future__ import annotations

import inspect
import json
import math
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy.spatial.distance import cdist

from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.objects import Objects
from medexp.core.types import Outcome, Prediction, StructureClass
from medexp.metrics.detection_f1 import DetectionF1

CONF = Path(__file__).parents[2] / "conf" / "metrics" / "detection_f1.yaml"
CLASSES = (StructureClass("a", 0, 1), StructureClass("b", 0, 2))


def metric_of(**knobs) -> DetectionF1:
    return DetectionF1(**({"distance_mm": 5.0, "min_score": 0.0, "both_empty": math.nan} | knobs))


def points(places, labels=None, scores=None) -> Objects:
    places = np.array(places, dtype=float).reshape(len(places), -1) if len(places) else np.zeros((0, 2))
    boxes = np.hstack([places, places])
    return Objects.of(boxes, np.ones(len(places)) if labels is None else np.array(labels), scores)


def pair_of(found: Objects | None, wanted: Objects, *, spacing=(1.0, 1.0), case_id: str = "x"):
    geometry = Geometry.from_spacing((64,) * len(spacing), spacing)
    return [Prediction(case_id, case_id, geometry, CLASSES, objects=objects) for objects in (found, wanted)]


def outcomes(rows, label: str = "a") -> list[str]:
    return [str(row.outcome) for row in rows if row.label == label]


def most_matches(distances: np.ndarray, largest: float) -> tuple[int, float]:
    """Number of pairs and their least sum of distances, by trying all assignments of a small table."""
    if distances.shape[0] > distances.shape[1]:
        distances = distances.T
    best = (0, 0.0)
    for columns in permutations(range(distances.shape[1]), distances.shape[0]):
        own = distances[np.arange(len(columns)), list(columns)]
        near = own <= largest
        best = max(best, (int(near.sum()), -float(own[near].sum())))
    return best[0], -best[1]


@pytest.mark.parametrize("seed", range(12))
def test_the_assignment_has_the_most_matches_and_of_these_the_nearest(seed):
    random = np.random.default_rng(seed)
    spacing = (1.0, 2.0, 0.5)[: 2 + seed % 2]
    found, wanted = (random.uniform(0, 12, size=(random.integers(1, 6), len(spacing))) for _ in range(2))
    rows = metric_of(distance_mm=4.0).rows(*pair_of(points(found), points(wanted), spacing=spacing))
    count, total = most_matches(cdist(found * spacing, wanted * spacing), 4.0)
    matched = [row.value for row in rows if row.outcome == Outcome.MATCH]
    assert len(matched) == count
    assert sum(matched) == pytest.approx(total, abs=1e-9)
    assert outcomes(rows).count("miss") == len(wanted) - count
    assert outcomes(rows).count("false_alarm") == len(found) - count


def test_an_object_does_not_take_the_match_that_another_needs():
    found = points([(10, 10), (10, 14)], scores=np.array([0.9, 0.5]))
    wanted = points([(10, 13), (10, 6)])
    rows = metric_of().rows(*pair_of(found, wanted))
    assert outcomes(rows) == ["match", "match"]
    assert sorted((row.score, row.value) for row in rows if row.label == "a") == [(0.5, 1.0), (0.9, 4.0)]


def test_a_match_at_the_distance_counts_and_distances_are_in_millimetres():
    found, wanted = points([(10, 10)]), points([(10, 12.5)])
    assert outcomes(metric_of(distance_mm=5.0).rows(*pair_of(found, wanted, spacing=(1.0, 2.0)))) == ["match"]
    assert outcomes(metric_of(distance_mm=4.9).rows(*pair_of(found, wanted, spacing=(1.0, 2.0)))) == [
        "miss",
        "false_alarm",
    ]


def test_boxes_are_compared_by_their_middles_and_classes_apart():
    found = Objects.of(np.array([[0.0, 0, 10, 10], [20, 20, 30, 30]]), np.array([1, 2]), np.array([0.9, 0.8]))
    wanted = Objects.of(np.array([[4.0, 4, 6, 6], [20, 20, 30, 30]]), np.array([1, 1]))
    rows = metric_of().rows(*pair_of(found, wanted))
    assert outcomes(rows) == ["match", "miss"]
    assert outcomes(rows, "b") == ["false_alarm"]


def test_the_score_is_pooled_over_the_objects_of_all_cases():
    metric = metric_of()
    rows = metric.rows(*pair_of(points([(1, 1), (9, 9)]), points([(1, 1)])))
    rows += metric.rows(*pair_of(points([]), points([(5, 5), (40, 40)]), case_id="y"))
    rows += metric.rows(*pair_of(points([]), points([]), case_id="z"))
    values = metric.aggregate(rows)
    assert values["a"] == values["mean"] == pytest.approx(2 / (2 + 1 + 2))
    assert math.isnan(values["b"])
    assert outcomes([row for row in rows if row.case_id == "z"]) == ["none"]
    assert math.isnan(metric.aggregate([row for row in rows if row.case_id == "z"])["mean"])


def test_knobs_decide_what_counts():
    pair = pair_of(points([(1, 1), (30, 30)], scores=np.array([0.9, 0.2])), points([(1, 1)]))
    assert metric_of().aggregate(metric_of().rows(*pair))["a"] == pytest.approx(2 / 3)
    sure = metric_of(min_score=0.5, both_empty=1.0)
    assert sure.aggregate(sure.rows(*pair)) == {"a": 1.0, "b": 1.0, "mean": 1.0}
    assert {str(knobs) for knobs in (metric_of().definition(), sure.definition())} != {str(sure.definition())}


def test_the_option_file_lists_every_knob():
    knobs = OmegaConf.to_container(OmegaConf.load(CONF))["detection_f1"]
    assert knobs.pop("_target_") == "medexp.metrics.detection_f1.DetectionF1"
    assert set(knobs) == set(inspect.signature(DetectionF1).parameters)
    definition = DetectionF1(**knobs).definition()
    assert json.loads(json.dumps(definition, allow_nan=False)) == definition


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="distance_mm needs a finite value above 0"):
        metric_of(distance_mm=0.0)
    with pytest.raises(UsageError, match="min_score needs a value from 0 to 1"):
        metric_of(min_score=2.0)
    with pytest.raises(DataError, match="the prediction has no objects"):
        metric_of().rows(*pair_of(None, points([])))

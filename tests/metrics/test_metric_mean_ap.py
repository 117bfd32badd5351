from __future__ import annotations

import contextlib
import inspect
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.objects import Objects
from medexp.core.types import Outcome, Prediction, StructureClass
from medexp.metrics.mean_ap import MeanAP

CONF = Path(__file__).parents[2] / "conf" / "metrics"
CLASSES = tuple(StructureClass(name, 0, value) for value, name in enumerate("abc", start=1))
THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())


def metric_of(**knobs) -> MeanAP:
    return MeanAP(**({"name": "mean_ap", "iou_thresholds": THRESHOLDS, "max_detections": 100} | knobs))


def case_of(case_id: str, objects: Objects | None) -> Prediction:
    return Prediction(case_id, case_id, Geometry.from_spacing((64, 64), (1.0, 1.0)), CLASSES, objects=objects)


def boxes_of(*rows: tuple[float, ...]) -> Objects:
    """Rows of class value, score and box."""
    table = np.array(rows, dtype=float).reshape(len(rows), 6)
    return Objects.of(table[:, 2:], table[:, 0], table[:, 1])


def scenes(seed: int, *, decimals: int) -> list[tuple[Objects, Objects]]:
    """Random predictions and references; some images have none of one or of both, some boxes are equal."""
    random = np.random.default_rng(seed)
    pairs = []
    for index in range(15):
        n = 0 if index % 5 == 0 else int(random.integers(1, 8))
        low = random.integers(0, 40, size=(n, 2)).astype(float)
        wanted = np.hstack([low, low + random.integers(4, 20, size=(n, 2))])
        labels = random.integers(1, 3, size=n)
        near = wanted + random.normal(0, 1.0, size=wanted.shape).round(1)
        far = np.hstack([low, low + 6.0])[: n // 2] + 15
        found = np.concatenate([near, wanted[:1], far]) if index % 7 else np.zeros((0, 4))
        of_class = np.concatenate([labels, labels[:1], labels[: n // 2]]) if index % 7 else np.zeros(0)
        if index == 5:
            found, of_class = np.array([[1.0, 1, 9, 9], [20, 20, 30, 30]]), np.array([1, 2])
        scores = random.random(len(found)).round(decimals)
        pairs.append((Objects.of(found, of_class, scores), Objects.of(wanted, labels)))
    return pairs


def rows_of(metric: MeanAP, pairs):
    return [
        row
        for index, (found, wanted) in enumerate(pairs)
        for row in metric.rows(case_of(str(index), found), case_of(str(index), wanted))
    ]


def by_pycocotools(pairs, *, thresholds, max_detections: int) -> dict[str, float]:
    """Average precision by class; nan where no image has the class."""

    def entries(which: int):
        boxes = [
            {"image_id": image, "category_id": int(value), "bbox": [*box[:2], *(box[2:] - box[:2])], "score": score}
            for image, pair in enumerate(pairs)
            for value, box, score in zip(pair[which].labels, pair[which].boxes, pair[which].scores, strict=True)
        ]
        area = [{"area": box["bbox"][2] * box["bbox"][3], "iscrowd": 0, "id": 1 + i} for i, box in enumerate(boxes)]
        return [box | extra for box, extra in zip(boxes, area, strict=True)]

    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {
            "images": [{"id": image} for image in range(len(pairs))],
            "categories": [{"id": structure.value, "name": structure.name} for structure in CLASSES],
            "annotations": entries(1),
        }
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(entries(0)), "bbox")
        evaluation.params.iouThrs = np.array(thresholds)
        evaluation.params.maxDets = [max_detections]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 0]  # thresholds, recalls, classes
    return {
        structure.name: math.nan if (precision[:, :, index] < 0).all() else float(precision[:, :, index].mean())
        for index, structure in enumerate(CLASSES)
    }


@pytest.mark.parametrize("decimals", [6, 1])
@pytest.mark.parametrize(("thresholds", "max_detections"), [(THRESHOLDS, 100), ((0.5,), 100), ((0.3, 0.75), 2)])
@pytest.mark.parametrize("seed", range(4))
def test_the_value_is_that_of_pycocotools_with_ties_and_empty_images(seed, decimals, thresholds, max_detections):
    pairs = scenes(seed, decimals=decimals)
    metric = metric_of(iou_thresholds=thresholds, max_detections=max_detections)
    found = metric.aggregate(rows_of(metric, pairs))
    expected = by_pycocotools(pairs, thresholds=thresholds, max_detections=max_detections)
    assert math.isnan(found["c"])
    assert math.isnan(expected["c"])
    assert 0.05 < expected["a"] < 0.98
    assert [found["a"], found["b"]] == pytest.approx([expected["a"], expected["b"]], abs=1e-9)
    assert found["mean"] == pytest.approx((expected["a"] + expected["b"]) / 2, abs=1e-9)


def test_each_threshold_has_its_matches_misses_and_false_alarms():
    wanted = boxes_of((1, 1, 0, 0, 10, 10), (1, 1, 20, 20, 30, 30))
    found = boxes_of((1, 0.4, 0, 0, 10, 10), (1, 0.9, 20, 20, 30, 26), (2, 0.5, 0, 0, 10, 10))
    rows = metric_of(iou_thresholds=(0.5, 0.75)).rows(case_of("x", found), case_of("x", wanted))
    assert [(row.label, row.threshold, str(row.outcome), row.score) for row in rows if row.outcome != "miss"] == [
        ("a", 0.5, "match", 0.9),
        ("a", 0.5, "match", 0.4),
        ("a", 0.75, "false_alarm", 0.9),
        ("a", 0.75, "match", 0.4),
        ("b", 0.5, "false_alarm", 0.5),
        ("b", 0.75, "false_alarm", 0.5),
        ("c", 0.5, "none", pytest.approx(math.nan, nan_ok=True)),
        ("c", 0.75, "none", pytest.approx(math.nan, nan_ok=True)),
    ]
    assert [(row.label, row.threshold) for row in rows if row.outcome == Outcome.MISS] == [("a", 0.75)]
    assert [row.value for row in rows if row.outcome == Outcome.MATCH] == pytest.approx([0.6, 1.0, 1.0])


def test_an_empty_image_stays_among_the_cases_and_lowers_nothing():
    metric = metric_of()
    pairs = [(boxes_of((1, 0.9, 0, 0, 8, 8)), boxes_of((1, 1, 0, 0, 8, 8))), (Objects.none(2), Objects.none(2))]
    rows = rows_of(metric, pairs)
    assert {row.case_id for row in rows} == {"0", "1"}
    assert metric.aggregate(rows)["a"] == metric.aggregate(rows)["mean"] == 1.0


def test_nothing_found_is_zero_and_nothing_at_all_is_undefined():
    metric = metric_of()
    assert metric.aggregate(rows_of(metric, [(Objects.none(2), boxes_of((1, 1, 0, 0, 8, 8)))]))["mean"] == 0.0
    assert math.isnan(metric.aggregate(rows_of(metric, [(boxes_of((1, 0.9, 0, 0, 8, 8)), Objects.none(2))]))["mean"])
    assert math.isnan(metric.aggregate([])["mean"])


def test_boxes_in_3d_are_matched_by_their_volume():
    box = np.array([[0.0, 0, 0, 10, 10, 10]])
    wanted, found = Objects.of(box, np.array([1])), Objects.of(box - [0, 0, 0, 0, 0, 4], np.array([1]), np.array([0.5]))
    metric = metric_of(iou_thresholds=(0.5, 0.75))
    assert metric.aggregate(rows_of(metric, [(found, wanted)]))["a"] == 0.5


@pytest.mark.parametrize("name", ["mean_ap", "ap50"])
def test_the_option_files_list_every_knob(name):
    knobs = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))[name]
    assert knobs.pop("_target_") == "medexp.metrics.mean_ap.MeanAP"
    assert set(knobs) == set(inspect.signature(MeanAP).parameters)
    metric = MeanAP(**knobs)
    assert metric.name == name
    assert json.loads(json.dumps(metric.definition(), allow_nan=False)) == metric.definition()


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="iou_thresholds needs values above 0"):
        metric_of(iou_thresholds=(0.0, 0.5))
    with pytest.raises(UsageError, match="max_detections needs a value >= 1"):
        metric_of(max_detections=0)
    with pytest.raises(DataError, match="the prediction has no objects"):
        metric_of().rows(case_of("x", None), case_of("x", Objects.none(2)))
    with pytest.raises(DataError, match="was given the prediction of case x"):
        metric_of().rows(case_of("x", Objects.none(2)), case_of("y", Objects.none(2)))

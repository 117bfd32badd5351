"""What every metric promises, and what they share."""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from medexp.core.errors import DataError, UsageError
from medexp.core.types import EvidenceRow, StructureClass
from medexp.metrics.dice import Dice
from medexp.metrics.hd95 import HD95
from medexp.metrics.nsd import NSD
from medexp.metrics.volume_difference import VolumeDifference

CONF = Path(__file__).parents[2] / "conf" / "metrics"
NAMES = ("dice", "hd95", "iou", "nsd", "volume_difference")
BEST = {"dice": 1.0, "hd95": 0.0, "iou": 1.0, "nsd": 1.0, "volume_difference": 0.0}
ORGANS = (StructureClass("liver", 0, 1), StructureClass("spleen", 0, 3))
REGIONS = (StructureClass("whole", 0, 1), StructureClass("core", 1, 1))


def row(label: str, value: float, case_id: str = "a") -> EvidenceRow:
    return EvidenceRow(case_id, case_id, "dice", label, value)


@pytest.fixture(params=NAMES)
def configured(request):
    """Name, configuration and metric of each option file."""
    config = OmegaConf.load(CONF / f"{request.param}.yaml")
    assert list(config) == [request.param]
    return request.param, config[request.param], instantiate(config[request.param])


def test_option_file_lists_every_knob(configured):
    _, config, _ = configured
    knobs = inspect.signature(get_class(config._target_)).parameters
    assert set(config) - {"_target_"} == set(knobs)
    assert all(knob.kind is inspect.Parameter.KEYWORD_ONLY for knob in knobs.values())


def test_option_file_repeats_the_defaults(configured):
    _, config, _ = configured
    for name, knob in inspect.signature(get_class(config._target_)).parameters.items():
        if knob.default is not inspect.Parameter.empty:
            assert repr(config[name]) == repr(knob.default)


def test_equal_masks_have_the_best_value(configured, pair, blobs):
    name, _, metric = configured
    prediction, _, spacing = blobs
    assert [row.value for row in metric.rows(*pair(prediction, prediction, spacing=spacing))] == [BEST[name]]


def test_worse_prediction_has_a_worse_value(configured, value_of, box):
    _, _, metric = configured
    reference, near, far = (box((20, 30), slice(4, 12), slice(4, stop)) for stop in (12, 15, 25))
    values = [value_of(metric, prediction, reference) for prediction in (near, far)]
    assert (values[0] > values[1]) is metric.higher_is_better


def test_rows_name_case_group_metric_and_class(configured, pair, blobs):
    _, _, metric = configured
    rows = metric.rows(*pair(blobs[0], blobs[1]))
    assert [(row.case_id, row.group, row.metric, row.label) for row in rows] == [
        ("case_7", "patient_3", metric.name, "liver")
    ]


def test_rows_leave_the_masks_as_they_were(configured, pair, blobs):
    _, _, metric = configured
    prediction, reference = pair(blobs[0], blobs[1], valid=np.ones_like(blobs[0]))
    before = prediction.mask.copy(), reference.mask.copy()
    metric.rows(prediction, reference)
    assert np.array_equal(prediction.mask, before[0])
    assert np.array_equal(reference.mask, before[1])


def test_voxels_that_nobody_annotated_do_not_count(configured, value_of, blobs):
    _, _, metric = configured
    prediction, reference, spacing = blobs
    valid = np.zeros_like(prediction)
    valid[1:-2, 2:-1] = True
    expected = value_of(metric, prediction & valid, reference & valid, spacing=spacing)
    assert value_of(metric, prediction, reference, spacing=spacing, valid=valid) == expected
    assert value_of(metric, prediction ^ ~valid, reference, spacing=spacing, valid=valid) == expected


def test_axes_may_be_stored_in_any_order(configured, value_of, blobs):
    _, _, metric = configured
    prediction, reference, spacing = blobs
    moved = value_of(metric, prediction.T, reference.T, spacing=spacing[::-1])
    assert moved == pytest.approx(value_of(metric, prediction, reference, spacing=spacing), rel=1e-5)


def test_definition_can_be_stored_and_compared(configured):
    _, config, metric = configured
    definition = metric.definition()
    assert json.loads(json.dumps(definition, allow_nan=False)) == instantiate(config).definition()
    assert set(definition) == {
        "implementation", "aggregation", "better", "unit", "unit_px", "empty", "parameters"
    }  # fmt: skip
    assert definition["implementation"].startswith("medexp ")
    assert definition["aggregation"] == "per case"


@pytest.mark.parametrize(
    ("metric", "changed"),
    [
        (Dice(), Dice(both_empty=1.0)),
        (HD95(), HD95(percentile=90.0)),
        (HD95(), HD95(combine="pooled")),
        (HD95(), HD95(both_empty=0.0)),
        (HD95(), HD95(one_empty=math.nan)),
        (NSD(tolerance_mm=1.0), NSD(tolerance_mm=2.0)),
        (NSD(tolerance_mm=1.0), NSD(tolerance_mm=1.0, both_empty=1.0)),
        (NSD(tolerance_mm=1.0), NSD(tolerance_mm=1.0, one_empty=math.nan)),
        (VolumeDifference(), VolumeDifference(signed=True)),
    ],
)
def test_definition_differs_by_every_knob(metric, changed):
    assert metric.definition() != changed.definition()


def test_distance_metrics_name_the_library_they_depend_on():
    assert "edt " in HD95().definition()["implementation"]
    assert "edt " in NSD(tolerance_mm=1.0).definition()["implementation"]


def test_undefined_is_a_word_in_the_definition():
    assert HD95(one_empty=math.nan).definition()["empty"] == {"both": "undefined", "one": "undefined"}
    assert HD95(both_empty=0.0).definition()["empty"] == {"both": "0.0", "one": "diagonal"}


def test_exclusive_classes_are_told_apart_by_value(pair):
    prediction = np.array([[[1, 1, 3, 0, 0]]], dtype=np.uint8)
    reference = np.array([[[1, 3, 3, 3, 0]]], dtype=np.uint8)
    rows = Dice().rows(*pair(prediction, reference, classes=ORGANS))
    assert {row.label: row.value for row in rows} == pytest.approx({"liver": 2 / 3, "spleen": 2 / 4})


def test_overlapping_regions_are_told_apart_by_layer(pair):
    prediction = np.array([[[1, 1, 1, 0]], [[0, 1, 0, 0]]], dtype=np.uint8)
    reference = np.array([[[1, 1, 1, 0]], [[0, 1, 1, 1]]], dtype=np.uint8)
    rows = Dice().rows(*pair(prediction, reference, classes=REGIONS, exclusive=False))
    assert {row.label: row.value for row in rows} == pytest.approx({"whole": 1.0, "core": 2 / 4})


def test_aggregate_is_the_mean_over_cases_and_then_over_classes():
    rows = [row("liver", 0.8, "a"), row("liver", 0.6, "b"), row("liver", 0.7, "c"), row("spleen", 0.1, "a")]
    assert Dice().aggregate(rows) == pytest.approx({"liver": 0.7, "spleen": 0.1, "mean": 0.4})


def test_aggregate_leaves_undefined_values_out():
    rows = [row("liver", 0.8, "a"), row("liver", math.nan, "b"), row("spleen", math.nan, "a")]
    means = Dice().aggregate(rows)
    assert means["liver"] == means["mean"] == 0.8
    assert math.isnan(means["spleen"])


def test_aggregate_without_rows_is_undefined():
    means = Dice().aggregate([])
    assert list(means) == ["mean"]
    assert math.isnan(means["mean"])


def test_aggregate_does_not_depend_on_the_order_of_cases():
    values = np.random.default_rng(0).random(50).tolist()
    rows = [row("liver", value, str(i)) for i, value in enumerate(values)]
    assert Dice().aggregate(rows) == Dice().aggregate(rows[::-1])


def test_aggregate_refuses_a_class_called_mean():
    with pytest.raises(UsageError, match='a class is called "mean"'):
        Dice().aggregate([row("mean", 0.5)])


def test_masks_of_different_shape_are_refused(pair):
    prediction = pair(*[np.ones((3, 4), dtype=bool)] * 2)[0]
    reference = pair(*[np.ones((4, 3), dtype=bool)] * 2)[1]
    with pytest.raises(DataError, match=r"case case_7: the masks need one grid, got \(3, 4\) and \(4, 3\)"):
        Dice().rows(prediction, reference)


def test_missing_mask_is_refused(pair):
    prediction, reference = pair(*[np.ones((3, 4), dtype=bool)] * 2)
    with pytest.raises(DataError, match="case case_7: the prediction has no mask; end the post-processing chain"):
        Dice().rows(replace(prediction, mask=None), reference)
    with pytest.raises(DataError, match="case case_7: the reference has no mask"):
        Dice().rows(prediction, replace(reference, mask=None))


def test_other_case_is_refused(pair):
    prediction, reference = pair(*[np.ones((3, 4), dtype=bool)] * 2)
    with pytest.raises(DataError, match="case case_7 was given the prediction of case case_8"):
        Dice().rows(replace(prediction, case_id="case_8"), reference)


def test_other_classes_are_refused(pair):
    prediction = pair(*[np.ones((3, 4), dtype=bool)] * 2)[0]
    reference = pair(*[np.ones((3, 4), dtype=bool)] * 2, classes=(StructureClass("spleen", 0, 1),))[1]
    with pytest.raises(DataError, match=r"the same classes, got \['liver'\] and \['spleen'\]"):
        Dice().rows(prediction, reference)


@pytest.mark.parametrize("valid", [np.ones((4, 3), dtype=bool), np.ones((3, 4), dtype=np.uint8)])
def test_valid_of_other_shape_or_type_is_refused(pair, valid):
    masks = [np.ones((3, 4), dtype=bool)] * 2
    with pytest.raises(DataError, match=r"valid needs dtype bool and shape \(3, 4\), got"):
        Dice().rows(*pair(*masks, valid=valid))

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK

from medexp.core.errors import UsageError
from medexp.metrics.dice import Dice
from medexp.metrics.iou import IoU


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 2)])
def test_iou_of_boxes_is_as_computed_by_hand(value_of, box, shape):
    prediction = box(shape, slice(0, 2), slice(0, 4))  # 8 per slice
    reference = box(shape, slice(1, 3), slice(0, 3))  # 6 per slice, 3 in common
    assert value_of(IoU(), prediction, reference) == pytest.approx(3 / (8 + 6 - 3))


def test_iou_agrees_with_simpleitk(value_of, blobs):
    prediction, reference, spacing = blobs
    overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*(SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in (reference, prediction)))
    assert value_of(IoU(), prediction, reference, spacing=spacing) == pytest.approx(overlap.GetJaccardCoefficient())


def test_iou_and_dice_of_one_case_determine_each_other(value_of, blobs):
    prediction, reference, _ = blobs
    dice = value_of(Dice(), prediction, reference)
    assert value_of(IoU(), prediction, reference) == pytest.approx(dice / (2 - dice))


def test_iou_is_undefined_where_both_masks_are_empty(value_of, box):
    assert math.isnan(value_of(IoU(), box((3, 3)), box((3, 3))))


def test_iou_is_one_where_both_masks_are_empty_if_told(value_of, box):
    assert value_of(IoU(both_empty=1.0), box((3, 3)), box((3, 3))) == 1.0


@pytest.mark.parametrize("swap", [False, True])
def test_iou_is_zero_where_one_mask_is_empty(value_of, box, swap):
    masks = [box((3, 3)), box((3, 3), slice(0, 1))]
    assert value_of(IoU(both_empty=1.0), *(reversed(masks) if swap else masks)) == 0.0


def test_iou_ignores_voxels_that_nobody_annotated(value_of):
    prediction = np.array([[True, True, True, False]])
    reference = np.array([[True, False, False, True]])
    valid = np.array([[True, True, False, False]])
    assert value_of(IoU(), prediction, reference, valid=valid) == pytest.approx(1 / 2)


def test_iou_refuses_another_rule_for_empty_masks():
    with pytest.raises(UsageError, match=r"iou\.both_empty needs 1\.0 or \.nan \(undefined\), got 0\.5"):
        IoU(both_empty=0.5)

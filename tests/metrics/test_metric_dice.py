from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK

from medexp.core.errors import UsageError
from medexp.metrics.dice import Dice


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 2)])
def test_dice_of_boxes_is_as_computed_by_hand(value_of, box, shape):
    prediction = box(shape, slice(0, 2), slice(0, 4))  # 8 per slice
    reference = box(shape, slice(1, 3), slice(0, 3))  # 6 per slice, 3 in common
    assert value_of(Dice(), prediction, reference) == pytest.approx(2 * 3 / (8 + 6))


def test_dice_agrees_with_simpleitk(value_of, blobs):
    prediction, reference, spacing = blobs
    overlap = SimpleITK.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*(SimpleITK.GetImageFromArray(mask.astype(np.uint8)) for mask in (reference, prediction)))
    assert value_of(Dice(), prediction, reference, spacing=spacing) == pytest.approx(overlap.GetDiceCoefficient())


def test_dice_of_equal_masks_is_one_and_of_disjoint_masks_zero(value_of, box):
    left, right = box((4, 4), slice(0, 2)), box((4, 4), slice(2, 4))
    assert value_of(Dice(), left, left) == 1.0
    assert value_of(Dice(), left, right) == 0.0


def test_dice_is_undefined_where_both_masks_are_empty(value_of, box):
    assert math.isnan(value_of(Dice(), box((3, 3)), box((3, 3))))


def test_dice_is_one_where_both_masks_are_empty_if_told(value_of, box):
    assert value_of(Dice(both_empty=1.0), box((3, 3)), box((3, 3))) == 1.0


@pytest.mark.parametrize("swap", [False, True])
def test_dice_is_zero_where_one_mask_is_empty(value_of, box, swap):
    masks = [box((3, 3)), box((3, 3), slice(0, 1))]
    assert value_of(Dice(both_empty=1.0), *(reversed(masks) if swap else masks)) == 0.0


def test_dice_ignores_voxels_that_nobody_annotated(value_of):
    prediction = np.array([[True, True, True, False]])
    reference = np.array([[True, False, False, True]])
    valid = np.array([[True, True, False, False]])
    assert value_of(Dice(), prediction, reference, valid=valid) == pytest.approx(2 * 1 / (2 + 1))


def test_dice_is_undefined_where_nothing_is_annotated(value_of, box):
    full = box((3, 3), slice(0, 3))
    assert math.isnan(value_of(Dice(), full, full, valid=~full))


@pytest.mark.parametrize("word", ["nan", "undefined"])
def test_dice_understands_undefined_as_a_word(value_of, box, word):
    assert math.isnan(value_of(Dice(both_empty=word), box((3, 3)), box((3, 3))))


@pytest.mark.parametrize("rule", [0.0, 0.5, "one"])
def test_dice_refuses_another_rule_for_empty_masks(rule):
    with pytest.raises(UsageError, match=r"dice\.both_empty needs 1\.0 or \.nan \(undefined\), got"):
        Dice(both_empty=rule)

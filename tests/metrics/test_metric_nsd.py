from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_surface_dice
from scipy import ndimage
from scipy.spatial.distance import cdist

from medexp.core.errors import UsageError
from medexp.metrics.nsd import NSD

ROW = np.zeros((3, 21), dtype=bool)
ROW[1] = True  # 21 voxels in a row
DOT = np.zeros((3, 21), dtype=bool)
DOT[1, 0] = True  # its first voxel


@pytest.mark.parametrize("tolerance_mm", [0.0, 0.9, 2.3])
def test_nsd_agrees_with_all_pairs_of_surface_voxels(value_of, blobs, tolerance_mm):
    prediction, reference, spacing = blobs
    points = [
        np.argwhere(mask & ~ndimage.binary_erosion(mask)) * np.asarray(spacing) for mask in (prediction, reference)
    ]
    between = cdist(*points)
    within = (between.min(axis=1) <= tolerance_mm).sum() + (between.min(axis=0) <= tolerance_mm).sum()
    expected = within / (len(points[0]) + len(points[1]))
    assert value_of(NSD(tolerance_mm=tolerance_mm), prediction, reference, spacing=spacing) == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy.*:FutureWarning")
def test_nsd_agrees_with_monai(value_of, blobs):
    prediction, reference, spacing = blobs
    batches = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    expected = compute_surface_dice(*batches, [1.7], include_background=True, spacing=spacing)
    value = value_of(NSD(tolerance_mm=1.7), prediction, reference, spacing=spacing)
    assert value == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(("tolerance_mm", "within"), [(0.0, 1), (3.0, 4), (3.5, 4), (20.0, 21)])
def test_nsd_counts_voxels_at_the_tolerance_as_within(value_of, tolerance_mm, within):
    # The row's distances to the dot are 0, 1, ..., 20, the dot's to the row is 0.
    assert value_of(NSD(tolerance_mm=tolerance_mm), ROW, DOT) == pytest.approx((within + 1) / 22)


def test_nsd_measures_the_tolerance_in_mm(value_of):
    assert value_of(NSD(tolerance_mm=3.0), ROW, DOT, spacing=(9.0, 1.5)) == pytest.approx((3 + 1) / 22)


def test_nsd_counts_voxels_at_the_tolerance_whose_spacing_was_stored_in_single_precision(value_of):
    spacing = (9.0, float(np.float32(0.8)))
    assert 2 * spacing[1] > 1.6
    assert value_of(NSD(tolerance_mm=1.6), ROW, DOT, spacing=spacing) == pytest.approx((3 + 1) / 22)


def test_nsd_measures_the_tolerance_in_pixels_where_the_image_has_no_scale(value_of):
    assert value_of(NSD(tolerance_mm=3.0), ROW, DOT, unit="px") == pytest.approx((4 + 1) / 22)


@pytest.mark.parametrize("swap", [False, True])
def test_nsd_is_zero_where_one_mask_is_empty(value_of, box, swap):
    masks = [box((3, 3)), box((3, 3), slice(0, 1))]
    assert value_of(NSD(tolerance_mm=99.0), *(reversed(masks) if swap else masks)) == 0.0


def test_nsd_is_undefined_where_one_mask_is_empty_if_told(value_of, box):
    metric = NSD(tolerance_mm=1.0, one_empty=math.nan)
    assert math.isnan(value_of(metric, box((3, 3), slice(0, 1)), box((3, 3))))


def test_nsd_is_undefined_where_both_masks_are_empty(value_of, box):
    assert math.isnan(value_of(NSD(tolerance_mm=1.0), box((3, 3)), box((3, 3))))


def test_nsd_is_one_where_both_masks_are_empty_if_told(value_of, box):
    assert value_of(NSD(tolerance_mm=1.0, both_empty=1.0), box((3, 3)), box((3, 3))) == 1.0


def test_nsd_ignores_voxels_that_nobody_annotated(value_of, box):
    valid = box(ROW.shape, slice(0, 3), slice(0, 5))
    assert value_of(NSD(tolerance_mm=1.0), ROW, DOT, valid=valid) == pytest.approx((2 + 1) / (5 + 1))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"tolerance_mm": -1.0}, r"nsd\.tolerance_mm needs a finite value of at least 0, got -1\.0"),
        ({"tolerance_mm": math.inf}, r"nsd\.tolerance_mm needs a finite value"),
        ({"tolerance_mm": math.nan}, r"nsd\.tolerance_mm needs a finite value"),
        ({"tolerance_mm": 1.0, "both_empty": 0.0}, r"nsd\.both_empty needs 1\.0 or \.nan \(undefined\), got 0\.0"),
        ({"tolerance_mm": 1.0, "one_empty": 1.0}, r"nsd\.one_empty needs 0\.0 or \.nan \(undefined\), got 1\.0"),
    ],
)
def test_nsd_refuses_knobs_out_of_range(knobs, message):
    with pytest.raises(UsageError, match=message):
        NSD(**knobs)

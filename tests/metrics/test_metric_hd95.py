from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK
import torch
from monai.metrics import compute_hausdorff_distance
from scipy import ndimage
from scipy.spatial.distance import cdist

from medexp.core.errors import UsageError
from medexp.metrics.hd95 import HD95

ROW = np.zeros((3, 21), dtype=bool)
ROW[1] = True  # 21 voxels in a row
DOT = np.zeros((3, 21), dtype=bool)
DOT[1, 0] = True  # its first voxel


def surface_points(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Coordinates of the mask's voxels that lose their place when it is eroded across faces."""
    return np.argwhere(mask & ~ndimage.binary_erosion(mask)) * np.asarray(spacing)


def brute_force(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, ...]:
    between = cdist(surface_points(prediction, spacing), surface_points(reference, spacing))
    return between.min(axis=1), between.min(axis=0)


def test_hd95_agrees_with_all_pairs_of_surface_voxels(value_of, blobs):
    prediction, reference, spacing = blobs
    expected = max(np.percentile(each, 95) for each in brute_force(prediction, reference, spacing))
    assert value_of(HD95(), prediction, reference, spacing=spacing) == pytest.approx(expected, rel=1e-5)


def test_pooled_hd95_agrees_with_all_pairs_of_surface_voxels(value_of, blobs):
    prediction, reference, spacing = blobs
    expected = np.percentile(np.hstack(brute_force(prediction, reference, spacing)), 95)
    assert value_of(HD95(combine="pooled"), prediction, reference, spacing=spacing) == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy.*:FutureWarning")
def test_hd95_agrees_with_monai(value_of, blobs):
    prediction, reference, spacing = blobs
    batches = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    expected = compute_hausdorff_distance(*batches, include_background=True, percentile=95, spacing=spacing)
    assert value_of(HD95(), prediction, reference, spacing=spacing) == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("percentile", [50.0, 95.0, 100.0])
def test_hd_agrees_with_simpleitk_away_from_the_edge(value_of, dims, percentile):
    spacing = (0.7, 1.3, 2.5)[:dims]
    rng = np.random.default_rng(dims)
    noise = [ndimage.gaussian_filter(rng.normal(size=(12,) * dims), 1.5) for _ in range(2)]
    prediction, reference = (np.pad(each > 0.02, 2) for each in noise)
    images = []
    for mask in (prediction, reference):
        images.append(SimpleITK.GetImageFromArray(mask.astype(np.uint8)))
        images[-1].SetSpacing(spacing[::-1])
    contours = [SimpleITK.LabelContour(image, fullyConnected=False) for image in images]
    maps = [SimpleITK.SignedMaurerDistanceMap(each, squaredDistance=False, useImageSpacing=True) for each in contours]
    distances = [np.clip(SimpleITK.GetArrayFromImage(each), 0, None) for each in maps]
    on_contour = [SimpleITK.GetArrayFromImage(each) > 0 for each in contours]
    there, back = distances[1][on_contour[0]], distances[0][on_contour[1]]
    expected = max(np.percentile(there, percentile), np.percentile(back, percentile))
    assert expected > 0
    value = value_of(HD95(percentile=percentile), prediction, reference, spacing=spacing)
    assert value == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("percentile", "expected"), [(95.0, 19.0), (50.0, 10.0), (100.0, 20.0)])
def test_hd_of_a_row_and_its_first_voxel_is_the_percentile_of_0_to_20(value_of, percentile, expected):
    assert value_of(HD95(percentile=percentile), ROW, DOT) == pytest.approx(expected)
    assert value_of(HD95(percentile=percentile), DOT, ROW) == pytest.approx(expected)


def test_pooled_hd95_puts_the_distances_of_both_directions_together(value_of):
    # 0, 0, 1, ..., 20: the percentile lies at place 0.95 * 21 = 19.95, between 18 and 19.
    assert value_of(HD95(combine="pooled"), ROW, DOT) == pytest.approx(18.95)


@pytest.mark.parametrize(
    ("spacing", "expected"), [((1.0, 1.0), 5.0), ((2.0, 0.5), math.hypot(6, 2)), ((0.5, 2.0), math.hypot(1.5, 8))]
)
def test_hd95_of_two_voxels_is_their_distance_in_mm(value_of, box, spacing, expected):
    one, other = box((9, 9), slice(2, 3), slice(2, 3)), box((9, 9), slice(5, 6), slice(6, 7))
    assert value_of(HD95(), one, other, spacing=spacing) == pytest.approx(expected)


def test_hd95_of_a_box_within_a_box_is_the_gap_between_their_surfaces(value_of, box):
    outer, inner = box((11, 11, 11), *[slice(1, 10)] * 3), box((11, 11, 11), *[slice(3, 8)] * 3)
    assert value_of(HD95(percentile=100.0), inner, outer) == pytest.approx(math.sqrt(12))  # corner to corner


def test_hd95_takes_the_edge_of_the_image_as_outside(value_of, box):
    full, smaller = box((8, 8), slice(0, 8)), box((8, 8), slice(0, 8), slice(0, 6))
    # The farthest voxel of the full image's border from the smaller one's border lies in the last column.
    assert value_of(HD95(percentile=100.0), full, smaller) == pytest.approx(2.0)


def test_hd95_of_equal_masks_is_zero(value_of, blobs):
    prediction, _, spacing = blobs
    assert value_of(HD95(), prediction, prediction, spacing=spacing) == 0.0


@pytest.mark.parametrize("swap", [False, True])
def test_hd95_is_the_diagonal_of_the_image_where_one_mask_is_empty(value_of, box, swap):
    masks = [box((30, 20, 10)), box((30, 20, 10), slice(3, 5), slice(3, 5), slice(3, 5))]
    value = value_of(HD95(), *(reversed(masks) if swap else masks), spacing=(1.0, 2.0, 3.0))
    assert value == pytest.approx(math.sqrt(30**2 + 40**2 + 30**2))


def test_no_distance_exceeds_the_diagonal(value_of, box):
    corners = box((5, 6), slice(0, 1), slice(0, 1)), box((5, 6), slice(4, 5), slice(5, 6))
    assert value_of(HD95(), *corners) < value_of(HD95(), corners[0], box((5, 6)))


def test_hd95_is_undefined_where_one_mask_is_empty_if_told(value_of, box):
    full = box((3, 3), slice(0, 3))
    for rule in (math.nan, "nan"):
        assert math.isnan(value_of(HD95(one_empty=rule), full, box((3, 3))))


def test_hd95_is_undefined_where_both_masks_are_empty(value_of, box):
    assert math.isnan(value_of(HD95(), box((3, 3)), box((3, 3))))


def test_hd95_is_zero_where_both_masks_are_empty_if_told(value_of, box):
    assert value_of(HD95(both_empty=0.0), box((3, 3)), box((3, 3))) == 0.0


def test_hd95_ignores_voxels_that_nobody_annotated(value_of, box):
    reference = box((1, 20), slice(0, 1), slice(0, 4))
    prediction = box((1, 20), slice(0, 1), slice(0, 20))
    valid = box((1, 20), slice(0, 1), slice(0, 5))
    # What is left: columns 0 to 4 against columns 0 to 3.
    assert value_of(HD95(percentile=100.0), prediction, reference, valid=valid) == pytest.approx(1.0)
    assert value_of(HD95(percentile=100.0), prediction, reference) == pytest.approx(16.0)


def test_hd95_is_in_pixels_where_the_image_has_no_scale(value_of):
    assert value_of(HD95(percentile=100.0), ROW, DOT, unit="px") == pytest.approx(20.0)


def test_name_tells_the_percentile():
    assert (HD95().name, HD95(percentile=100.0).name, HD95(percentile=97.5).name) == ("hd95", "hd100", "hd97.5")


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"percentile": 0.0}, r"hd95\.percentile needs a value above 0 and up to 100, got 0\.0"),
        ({"percentile": 101.0}, r"hd95\.percentile needs .* got 101\.0"),
        ({"combine": "mean"}, r"hd95\.combine needs max or pooled, got 'mean'"),
        ({"both_empty": 1.0}, r"hd95\.both_empty needs 0\.0 or \.nan \(undefined\), got 1\.0"),
        ({"one_empty": "largest"}, r"hd95\.one_empty needs 'diagonal' or \.nan \(undefined\), got 'largest'"),
    ],
)
def test_hd95_refuses_knobs_out_of_range(knobs, message):
    with pytest.raises(UsageError, match=message):
        HD95(**knobs)

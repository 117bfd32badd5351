from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medexp.core.errors import UsageError
from medexp.core.types import StructureClass
from medexp.post_processing.remove_small import RemoveSmall

REGIONS = (StructureClass("whole", 0, 1), StructureClass("core", 1, 1))


def row(*lengths: int, value: int = 1, dims: int = 2) -> np.ndarray:
    """One layer with components of the given lengths along the last axis."""
    line = [voxel for length in lengths for voxel in [value] * length + [0]]
    return np.array(line, dtype=np.uint8).reshape(1, *(1,) * (dims - 1), -1)


def lengths(mask: np.ndarray) -> list[int]:
    numbers, count = ndimage.label(mask[0])
    return [int(size) for size in ndimage.sum_labels(np.ones(numbers.shape), numbers, range(1, count + 1))]


@pytest.mark.parametrize("connectivity", ["faces", "corners"])
@pytest.mark.parametrize("min_voxels", [1, 2, 3, 6])
def test_remove_small_agrees_with_scipy(predict, scattered, connectivity, min_voxels):
    layer, dims = scattered[0], scattered[0].ndim
    structure = ndimage.generate_binary_structure(dims, 1 if connectivity == "faces" else dims)
    expected = np.zeros_like(layer)
    for value in (1, 3):
        numbers, count = ndimage.label(layer == value, structure)
        for number in range(1, count + 1):
            if (numbers == number).sum() >= min_voxels:
                expected[numbers == number] = value
    spacing = (0.5, 3.0, 2.0)[:dims]
    step = RemoveSmall(min_volume_mm3=min_voxels * float(np.prod(spacing)), connectivity=connectivity)
    result = step(predict(mask=scattered, spacing=spacing))
    assert np.array_equal(result.mask[0], expected)
    assert result.mask.dtype == scattered.dtype


def test_remove_small_keeps_component_exactly_at_threshold(predict):
    assert lengths(RemoveSmall(min_volume_mm3=3.0)(predict(mask=row(2, 3, 4))).mask) == [3, 4]
    assert lengths(RemoveSmall(min_volume_mm3=3.01)(predict(mask=row(2, 3, 4))).mask) == [4]


@pytest.mark.parametrize("spacing", [(0.1, 0.7, 0.3), tuple(float(np.float32(each)) for each in (0.1, 0.7, 0.8))])
def test_remove_small_keeps_component_exactly_at_threshold_despite_rounding(predict, spacing):
    for voxels in range(1, 60):
        threshold = round(voxels * float(np.prod([round(each, 3) for each in spacing])), 9)
        result = RemoveSmall(min_volume_mm3=threshold)(predict(mask=row(voxels, dims=3), spacing=spacing))
        assert lengths(result.mask) == [voxels]
        if voxels > 1:
            assert (
                lengths(
                    RemoveSmall(min_volume_mm3=threshold)(predict(mask=row(voxels - 1, dims=3), spacing=spacing)).mask
                )
                == []
            )


def test_remove_small_measures_in_mm3(predict):
    step, mask = RemoveSmall(min_volume_mm3=12.0), row(2, 3, 4, dims=3)
    assert lengths(step(predict(mask=mask, spacing=(1.0, 2.0, 2.0))).mask) == [3, 4]
    assert lengths(step(predict(mask=mask, spacing=(1.0, 2.0, 1.5))).mask) == [4]
    assert lengths(step(predict(mask=mask, spacing=(5.0, 2.0, 1.5))).mask) == [2, 3, 4]


def test_remove_small_measures_in_mm2_in_2d(predict):
    assert lengths(RemoveSmall(min_volume_mm3=12.0)(predict(mask=row(2, 3, 4), spacing=(2.0, 2.0))).mask) == [3, 4]


def test_remove_small_measures_in_pixels_where_the_image_has_no_scale(predict):
    assert lengths(RemoveSmall(min_volume_mm3=4.0)(predict(mask=row(2, 3, 4), unit="px")).mask) == [4]


def test_remove_small_takes_the_volume_from_a_rotated_grid(predict):
    prediction = predict(mask=row(2, 3, 4))
    turned = np.array([[0.0, 2.0, 5.0], [-2.0, 0.0, 7.0], [0.0, 0.0, 1.0]])
    object.__setattr__(prediction.geometry, "affine", turned)
    assert lengths(RemoveSmall(min_volume_mm3=12.0)(prediction).mask) == [3, 4]


def test_remove_small_joins_over_corners_only_if_told(predict):
    mask = np.eye(3, dtype=np.uint8)[None]
    assert RemoveSmall(min_volume_mm3=2.0, connectivity="corners")(predict(mask=mask)).mask.sum() == 3
    assert RemoveSmall(min_volume_mm3=2.0, connectivity="faces")(predict(mask=mask)).mask.sum() == 0


def test_remove_small_does_not_join_touching_classes(predict):
    mask = np.array([[[1, 1, 3, 1, 1, 1]]], dtype=np.uint8)
    assert RemoveSmall(min_volume_mm3=3.0)(predict(mask=mask)).mask.tolist() == [[[0, 0, 0, 1, 1, 1]]]


def test_remove_small_leaves_classes_that_are_not_named(predict):
    mask = np.array([[[1, 0, 3, 0, 3, 3]]], dtype=np.uint8)
    result = RemoveSmall(min_volume_mm3=2.0, classes=["spleen"])(predict(mask=mask))
    assert result.mask.tolist() == [[[1, 0, 0, 0, 3, 3]]]


def test_remove_small_works_on_overlapping_regions_layer_by_layer(predict):
    mask = np.array([[[1, 1, 1, 0, 1]], [[1, 0, 1, 1, 1]]], dtype=np.uint8)
    regions = predict(mask=mask, classes=REGIONS, exclusive=False)
    assert RemoveSmall(min_volume_mm3=2.0)(regions).mask.tolist() == [[[1, 1, 1, 0, 0]], [[0, 0, 1, 1, 1]]]
    result = RemoveSmall(min_volume_mm3=2.0, classes=["whole"])(regions)
    assert result.mask.tolist() == [[[1, 1, 1, 0, 0]], [[1, 0, 1, 1, 1]]]


def test_remove_small_with_volume_zero_removes_nothing(predict, scattered):
    assert np.array_equal(RemoveSmall(min_volume_mm3=0.0)(predict(mask=scattered)).mask, scattered)


def test_remove_small_may_leave_nothing(predict, scattered):
    assert not RemoveSmall(min_volume_mm3=1e9)(predict(mask=scattered)).mask.any()


def test_remove_small_of_an_empty_mask_is_empty(predict):
    empty = np.zeros((1, 3, 3, 3), dtype=np.uint8)
    assert not RemoveSmall(min_volume_mm3=2.0)(predict(mask=empty)).mask.any()


def test_remove_small_refuses_a_prediction_without_mask(predict):
    with pytest.raises(UsageError, match="remove_small takes a mask, and case case_7 has none"):
        RemoveSmall(min_volume_mm3=1.0)(predict(probabilities=np.zeros((3, 2, 2))))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"min_volume_mm3": -1.0}, r"remove_small\.min_volume_mm3 needs a finite value of at least 0, got -1\.0"),
        ({"min_volume_mm3": float("nan")}, r"remove_small\.min_volume_mm3 needs a finite value"),
        ({"min_volume_mm3": 1.0, "connectivity": "full"}, r"remove_small\.connectivity needs faces or corners"),
        ({"min_volume_mm3": 1.0, "classes": "liver"}, r"remove_small\.classes needs a list of names"),
    ],
)
def test_remove_small_refuses_knobs_out_of_range(knobs, message):
    with pytest.raises(UsageError, match=message):
        RemoveSmall(**knobs)

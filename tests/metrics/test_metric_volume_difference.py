from __future__ import annotations

import numpy as np
import pytest
import SimpleITK

from medexp.metrics.volume_difference import VolumeDifference


def sitk_volume_ml(mask: np.ndarray, spacing: tuple[float, ...]) -> float:
    image = SimpleITK.GetImageFromArray(mask.astype(np.uint8))
    image.SetSpacing(spacing[::-1])
    shape = SimpleITK.LabelShapeStatisticsImageFilter()
    shape.Execute(image)
    return shape.GetPhysicalSize(1) / 1000


def test_volume_difference_agrees_with_simpleitk(value_of, blobs):
    prediction, reference, spacing = blobs
    expected = sitk_volume_ml(prediction, spacing) - sitk_volume_ml(reference, spacing)
    assert value_of(VolumeDifference(signed=True), prediction, reference, spacing=spacing) == pytest.approx(expected)
    assert value_of(VolumeDifference(), prediction, reference, spacing=spacing) == pytest.approx(abs(expected))


def test_signed_volume_difference_is_negative_where_the_prediction_is_too_small(value_of, box):
    small, large = box((10, 10, 10), slice(0, 2)), box((10, 10, 10), slice(0, 5))
    # 300 voxels of 0.5 * 2 * 4 = 4 mm3
    assert value_of(VolumeDifference(signed=True), small, large, spacing=(0.5, 2.0, 4.0)) == pytest.approx(-1.2)
    assert value_of(VolumeDifference(), small, large, spacing=(0.5, 2.0, 4.0)) == pytest.approx(1.2)


def test_volume_difference_in_2d_is_in_1000_mm2(value_of, box):
    small, large = box((10, 10), slice(0, 2)), box((10, 10), slice(0, 5))
    assert value_of(VolumeDifference(), small, large, spacing=(0.5, 2.0)) == pytest.approx(0.03)


def test_volume_difference_is_in_pixels_where_the_image_has_no_scale(value_of, box):
    assert value_of(VolumeDifference(), box((10, 10)), box((10, 10), slice(0, 3)), unit="px") == 30.0


def test_volume_difference_of_empty_masks_needs_no_rule(value_of, box):
    assert value_of(VolumeDifference(), box((3, 3)), box((3, 3))) == 0.0


def test_volume_difference_ignores_voxels_that_nobody_annotated(value_of, box):
    valid = box((10, 10), slice(0, 1))
    value = value_of(VolumeDifference(), box((10, 10)), box((10, 10), slice(0, 3)), unit="px", valid=valid)
    assert value == 10.0


def test_signed_volume_difference_has_its_own_name_and_is_best_at_zero():
    absolute, signed = VolumeDifference(), VolumeDifference(signed=True)
    assert (absolute.name, absolute.definition()["better"]) == ("volume_difference_ml", "lower")
    assert (signed.name, signed.definition()["better"]) == ("signed_volume_difference_ml", "nearest 0")

from __future__ import annotations

import numpy as np
import pytest
from integrity_examples import boxes, demands, image, names, noise, told

from medexp.core.objects import Objects
from medexp.data.integrity.boxes import box_faults

PIXELS = noise(1, 100, 120)


def faults_of(*rows: list[float], pixels: np.ndarray = PIXELS, **knobs: object) -> list:
    return told(box_faults, image(pixels, objects=boxes(*rows), **knobs))


def test_boxes_and_points_inside_have_no_fault() -> None:
    assert faults_of([0, 0, 100, 120], [10.5, 20, 30, 40.5]) == []
    assert faults_of([5, 5, 5, 5], [0, 0, 0, 0], [100, 120, 100, 120]) == []
    assert told(box_faults, image(PIXELS, objects=Objects.none(2))) == []
    assert told(box_faults, image()) == []


def test_a_box_that_ends_before_it_starts_is_told_with_its_ends() -> None:
    (fault,) = faults_of([10, 20, 30, 40], [90, 20, 80, 90])
    assert (fault.check, fault.case_id) == ("box_order", "a")
    assert "1 of 2" in fault.found
    assert "[90.0, 20.0, 80.0, 90.0]" in fault.found
    assert "exchange the ends" in fault.remedy


def test_sizes_read_as_ends_are_recognised() -> None:
    (fault,) = faults_of([50, 60, 20, 30], [10, 90, 40, 20], [5, 5, 10, 10])
    assert fault.check == "box_order"
    assert "x, y, width, height read as x1, y1, x2, y2" in fault.remedy


def test_ends_read_as_sizes_are_recognised() -> None:
    ends = [[50, 60, 80, 100], [10, 90, 40, 110]]
    (fault,) = faults_of(*[[y, x, y + height, x + width] for y, x, height, width in ends])
    assert fault.check == "box_outside"
    assert "x1, y1, x2, y2 read as x, y, width, height" in fault.remedy


def test_a_box_without_extent_is_told_beside_boxes_with_one() -> None:
    faults = faults_of([10, 20, 30, 40], [10, 20, 10, 40], [5, 5, 5, 5])
    assert names(faults) == ["box_without_extent"]
    assert "2 of 3" in faults[0].found


@pytest.mark.parametrize("box", [[-3, 0, 10, 10], [50, 50, 102, 60], [200, 200, 210, 210]])
def test_a_box_that_leaves_the_image_is_told(box: list[float]) -> None:
    (fault,) = faults_of([1, 1, 5, 5], box)
    assert fault.check == "box_outside"
    assert "(100, 120)" in fault.expected


def test_a_box_that_leaves_the_image_by_a_pixel_was_rounded() -> None:
    assert faults_of([-1, 0, 101, 121]) == []


def test_a_point_outside_is_told() -> None:
    assert names(faults_of([5, 5, 5, 5], [130, 5, 130, 5])) == ["box_outside"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_ends_that_are_not_finite_are_told_and_the_others_are_still_checked(value: float) -> None:
    assert names(faults_of([1, value, 5, 5], [90, 20, 80, 90])) == ["box_not_finite", "box_order"]


def volume_faults(box: list[float], affine: np.ndarray, unit: str = "mm") -> list:
    read = image(noise(1, 20, 20, 10), affine=affine, unit=unit, objects=boxes(box))
    return told(box_faults, read, demands(spatial_dims=3))


def test_millimetres_read_as_voxels_are_recognised_from_the_first_voxel_and_in_the_world() -> None:
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    in_voxels = np.array([4.0, 5, 6, 12, 13, 9])
    from_first = (in_voxels.reshape(2, 3) * [2, 2, 5]).ravel().tolist()
    (fault,) = volume_faults(from_first, affine)
    assert fault.check == "boxes_in_mm"
    assert "spacing" in fault.remedy
    placed = affine.copy()
    placed[:3, 3] = [-100, -50, 30]
    in_world = (in_voxels.reshape(2, 3) * [2, 2, 5] + [-100, -50, 30]).ravel().tolist()
    assert names(volume_faults(in_world, placed)) == ["boxes_in_mm"]


def test_a_box_that_is_outside_in_millimetres_too_is_just_outside() -> None:
    assert names(volume_faults([500, 500, 500, 600, 600, 600], np.diag([2.0, 2.0, 5.0, 1.0]))) == ["box_outside"]


def test_voxels_of_one_millimetre_leave_nothing_to_divide_by() -> None:
    assert names(volume_faults([5, 5, 5, 30, 30, 30], np.eye(4))) == ["box_outside"]

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Severity
from medexp.core.geometry import Geometry
from medexp.data.sources._grids import GridRule, check_same_grid, resample_nearest

SHAPE = (12, 10, 8)
PATH = Path("label.nii.gz")


def grid(shape: tuple[int, ...] = SHAPE, spacing: tuple = (0.8, 0.7, 2.5), shift: tuple = (0, 0, 0)) -> Geometry:
    affine = np.diag([*spacing, 1.0])
    affine[:-1, -1] = shift
    return Geometry(shape=shape, affine=affine)


def checks(geometry: Geometry, image: Geometry, tolerance: float = 0.05) -> list[str]:
    faults = check_same_grid(geometry, image, tolerance_voxels=tolerance, case_id="c1", path=PATH)
    assert all(fault.case_id == "c1" and fault.file == PATH for fault in faults)
    return [fault.check for fault in faults]


def flipped() -> Geometry:
    affine = grid().affine.copy()
    affine[:, 0] *= -1
    return Geometry(shape=SHAPE, affine=affine)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (grid(), []),
        (grid(shift=(0.03, 0, 0.1)), []),
        (grid(shape=(12, 10, 9)), ["shape_mismatch"]),
        (grid(spacing=(0.8, 0.7, 3.0)), ["spacing_mismatch"]),
        (grid(shape=(12, 10, 9), spacing=(0.8, 0.7, 3.0)), ["shape_mismatch", "spacing_mismatch"]),
        (grid(shift=(0.05, 0, 0)), ["affine_mismatch"]),
        (flipped(), ["affine_mismatch"]),
        (Geometry.from_spacing(SHAPE, (1.0, 1.0, 1.0), unit="px"), []),
        (Geometry.from_spacing((1, 2, 3), (1.0, 1.0, 1.0), unit="px"), ["shape_mismatch"]),
    ],
)
def test_what_differs_is_told(other: Geometry, expected: list[str]) -> None:
    assert checks(other, grid()) == expected


def test_the_tolerance_is_in_voxels_at_the_most_distant_voxel() -> None:
    assert checks(grid(shift=(0, 0, 1.0)), grid(), tolerance=0.41) == []
    assert checks(grid(shift=(0, 0, 1.0)), grid(), tolerance=0.39) == ["affine_mismatch"]
    stretched = grid(spacing=(0.8 * 1.01, 0.7, 2.5))  # 11 steps of a hundredth
    assert checks(stretched, grid(), tolerance=0.12) == []
    assert checks(stretched, grid(), tolerance=0.1) == ["spacing_mismatch"]


def test_the_spacing_across_a_single_slice_counts() -> None:
    one = (12, 10, 1)
    assert checks(grid(shape=one, spacing=(0.8, 0.7, 5.0)), grid(shape=one)) == ["spacing_mismatch"]


LABELS = np.random.default_rng(0).integers(0, 5, SHAPE)


def apply(geometry: str, own: Geometry, image: Geometry, labels: np.ndarray = LABELS) -> Any:
    return GridRule(geometry, 0.05).apply(labels, own, image, case_id="c1", path=PATH)


@pytest.mark.parametrize("geometry", ["error", "warn", "resample_label"])
def test_a_label_on_the_images_grid_is_left_alone(geometry: str) -> None:
    labels, warnings = apply(geometry, grid(), grid())
    assert labels is LABELS
    assert warnings == ()


def test_grids_apart_are_an_error_unless_told_otherwise() -> None:
    with pytest.raises(DataError, match=r"case c1.*voxels away") as caught:
        apply("error", grid(shift=(1, 0, 0)), grid())
    assert [fault.severity for fault in caught.value.faults] == [Severity.ERROR]


def test_a_warning_leaves_the_voxels_as_they_are() -> None:
    labels, warnings = apply("warn", grid(shift=(1, 0, 0)), grid())
    assert labels is LABELS
    assert [(fault.check, fault.severity) for fault in warnings] == [("affine_mismatch", Severity.WARNING)]


@pytest.mark.parametrize("geometry", ["error", "warn"])
def test_another_shape_is_an_error_even_if_a_warning_would_do(geometry: str) -> None:
    with pytest.raises(DataError, match="shape"):
        apply(geometry, grid(), grid(shape=(12, 10, 9)))


def test_another_shape_without_a_physical_scale_cannot_be_resampled() -> None:
    with pytest.raises(DataError, match="shape"):
        apply("resample_label", Geometry.from_spacing(SHAPE, (1.0, 1.0, 1.0), unit="px"), grid(shape=(12, 10, 9)))


def rotated(shape: tuple[int, ...], spacing: tuple[float, ...], angle: float) -> Geometry:
    cos, sin = np.cos(angle), np.sin(angle)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, -1]]) * spacing
    affine[:3, 3] = (2.123, -1.456, 19.789)
    return Geometry(shape=shape, affine=affine)


def as_itk(labels: np.ndarray, geometry: Geometry) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(labels.T))
    spacing = np.array(geometry.spacing_mm)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((geometry.affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(geometry.affine[:3, 3].tolist())
    return image


@pytest.mark.parametrize("image", [grid(), rotated((15, 9, 11), (0.61, 0.93, 1.77), 0.4)])
@pytest.mark.parametrize("own", [grid(shift=(0.33, -0.41, 1.3)), rotated(SHAPE, (1.13, 0.57, 2.21), -0.2)])
def test_a_resampled_label_is_what_itk_gives(own: Geometry, image: Geometry) -> None:
    labels, warnings = apply("resample_label", own, image, LABELS.astype(np.uint8))
    expected = SimpleITK.Resample(
        as_itk(LABELS.astype(np.uint8), own),
        as_itk(np.zeros(image.shape, np.uint8), image),
        SimpleITK.Transform(),
        SimpleITK.sitkNearestNeighbor,
    )
    np.testing.assert_array_equal(labels, SimpleITK.GetArrayFromImage(expected).T)
    assert labels.dtype == np.uint8
    assert labels.any()
    assert {fault.severity for fault in warnings} == {Severity.WARNING}
    assert "resampled" in warnings[0].remedy


def test_a_voxel_at_the_border_reaches_half_its_length_outwards() -> None:
    ones = np.ones((4, 4), np.int32)
    finer = Geometry(shape=(8, 8), affine=np.array([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1.0]]))
    placed = resample_nearest(ones, Geometry.from_spacing((4, 4), (1.0, 1.0)), finer)
    np.testing.assert_array_equal(placed, np.ones((8, 8)))


def test_a_label_outside_its_image_is_an_error() -> None:
    with pytest.raises(DataError, match="all of them outside"):
        apply("resample_label", grid(shift=(500, 0, 0)), grid())


@pytest.mark.parametrize(("geometry", "tolerance"), [("ignore", 0.05), ("error", -1.0), ("error", float("nan"))])
def test_an_unfit_knob_is_refused(geometry: str, tolerance: float) -> None:
    with pytest.raises(UsageError, match=r"geometry|tolerance"):
        GridRule(geometry, tolerance)

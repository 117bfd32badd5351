from __future__ import annotations

import numpy as np
import pytest
from integrity_examples import case, demands, image, names, noise, square, told

from medexp.core.errors import UsageError
from medexp.core.faults import Severity
from medexp.core.geometry import Geometry
from medexp.core.types import Annotation, Image
from medexp.data.integrity import grids, total_strides

MR = {"spatial_dims": 3, "channels": ("MRI",)}


def volume(*shape: int, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Image:
    return image(noise(1, *shape), spacing=spacing)


def test_another_number_of_axes_than_declared_is_told() -> None:
    (fault,) = told(grids.wrong_dimensions, volume(8, 9, 7))
    assert (fault.check, fault.expected) == ("wrong_dimensions", "2 spatial axes")
    assert fault.found == "3 (shape (8, 9, 7))"


def test_a_mask_and_a_grid_of_another_shape_are_both_told() -> None:
    read = Image(
        case=case(),
        pixels=noise(1, 8, 9),
        annotation=Annotation(mask=square((8, 8))),
        geometry=Geometry((9, 9), np.eye(3)),
    )
    faults = told(grids.wrong_dimensions, read)
    assert names(faults) == ["wrong_dimensions"] * 2
    assert [fault.found for fault in faults] == ["(9, 9)", "(8, 8)"]
    assert faults[1].file == case().references["mask"]


@pytest.mark.parametrize(
    ("spacing", "words"),
    [((0.0008, 0.0008, 0.0025), "metres"), ((800.0, 800.0, 2500.0), "micrometres"), ((0.8, 0.8, 500.0), "micrometres")],
)
def test_a_spacing_in_other_units_is_an_error_where_the_modality_is_known(
    spacing: tuple[float, ...], words: str
) -> None:
    (fault,) = told(grids.implausible_spacing, volume(64, 64, 10, spacing=spacing), demands(**MR))
    assert (fault.check, fault.severity) == ("implausible_spacing", Severity.ERROR)
    assert words in fault.found
    assert "millimetres" in fault.remedy
    (softer,) = told(grids.implausible_spacing, volume(64, 64, 10, spacing=spacing), demands(spatial_dims=3))
    assert softer.severity is Severity.WARNING


def test_ones_with_the_matrix_of_a_ct_are_a_lost_spacing() -> None:
    ct = demands(spatial_dims=3, channels=("CT",))
    (fault,) = told(grids.implausible_spacing, volume(512, 512, 2), ct)
    assert (fault.check, fault.severity) == ("implausible_spacing", Severity.ERROR)
    assert "lost" in fault.found
    assert told(grids.implausible_spacing, volume(512, 512, 2, spacing=(0.7, 0.7, 1.0)), ct) == []
    assert told(grids.implausible_spacing, volume(64, 64, 20), ct) == []


def test_plausible_spacings_have_no_fault() -> None:
    for spacing in ((0.8, 0.8, 5.0), (1.0, 1.0, 1.0), (0.1, 0.1, 0.1)):
        assert told(grids.implausible_spacing, volume(64, 64, 10, spacing=spacing), demands(**MR)) == []


def test_pictures_without_a_physical_scale_have_no_spacing_to_be_judged() -> None:
    assert told(grids.implausible_spacing, image(noise(1, 8, 9), unit="px")) == []


def test_an_image_smaller_than_the_patch_is_a_warning_that_says_it_is_padded() -> None:
    (fault,) = told(grids.smaller_than_patch, image(noise(1, 8, 9)), demands(patch_size=(8, 10)))
    assert (fault.check, fault.severity) == ("smaller_than_patch", Severity.WARNING)
    assert fault.found == "(8, 9)"
    assert "padded" in fault.remedy
    assert told(grids.smaller_than_patch, image(noise(1, 8, 9)), demands(patch_size=(8, 9))) == []
    assert told(grids.smaller_than_patch, image(noise(1, 8, 9))) == []


def test_the_patch_is_compared_on_the_networks_grid() -> None:
    read = volume(8, 8, 4, spacing=(1.0, 1.0, 2.0))
    asked = {**MR, "patch_size": (8, 8, 8)}
    assert names(told(grids.smaller_than_patch, read, demands(**asked))) == ["smaller_than_patch"]
    assert told(grids.smaller_than_patch, read, demands(**asked, spacing_mm=(1.0, 1.0, 1.0))) == []
    turned = image(noise(1, 4, 8, 8), affine=np.eye(4)[[1, 2, 0, 3]])
    assert names(told(grids.smaller_than_patch, turned, demands(**MR, patch_size=(8, 8, 4)))) == ["smaller_than_patch"]
    assert told(grids.smaller_than_patch, turned, demands(**MR, patch_size=(8, 8, 4), orient=True)) == []


def test_long_voxels_in_a_cube_of_a_patch_are_told_and_a_flat_patch_is_not() -> None:
    read = volume(64, 64, 32, spacing=(0.8, 0.8, 5.0))
    (fault,) = told(grids.extreme_anisotropy, read, demands(**MR, patch_size=(32, 32, 32)))
    assert (fault.check, fault.severity) == ("extreme_anisotropy", Severity.WARNING)
    assert "(0.8, 0.8, 5) mm" in fault.found
    assert "(25.6, 25.6, 160) mm" in fault.found
    assert told(grids.extreme_anisotropy, read, demands(**MR, patch_size=(64, 64, 8))) == []


def test_strides_that_shrink_the_long_axis_like_the_others_are_told() -> None:
    read = volume(64, 64, 32, spacing=(0.8, 0.8, 5.0))
    flat = {**MR, "patch_size": (64, 64, 8)}
    (fault,) = told(grids.extreme_anisotropy, read, demands(**flat, strides=(8, 8, 8)))
    assert "strides of (8, 8, 8)" in fault.found
    assert told(grids.extreme_anisotropy, read, demands(**flat, strides=(8, 8, 2))) == []
    resampled = demands(**MR, patch_size=(32, 32, 32), strides=(8, 8, 8), spacing_mm=(1.0, 1.0, 1.0))
    assert told(grids.extreme_anisotropy, read, resampled) == []


@pytest.mark.parametrize(
    ("patch", "strides", "nearest"),
    [
        ((30, 33), (8, 8), "[32,32]"),
        ((3, 16), (8, 8), "[8,16]"),
        ((20, 20), (8, 1), "[24,20]"),
        ((64, 17), (16, 4), "[64,16]"),
    ],
)
def test_a_patch_that_the_strides_do_not_divide_is_told_with_the_nearest_that_they_do(
    patch: tuple[int, ...], strides: tuple[int, ...], nearest: str
) -> None:
    (fault,) = grids.patch_not_divisible(demands(patch_size=patch, strides=strides))
    assert (fault.check, fault.case_id) == ("patch_not_divisible", None)
    assert f"dataset.patch_size={nearest}" in fault.remedy


def test_a_patch_that_the_strides_divide_and_a_network_without_strides_have_no_fault() -> None:
    assert list(grids.patch_not_divisible(demands(patch_size=(32, 48), strides=(8, 16)))) == []
    assert list(grids.patch_not_divisible(demands(patch_size=(31, 47)))) == []


def test_strides_multiply_along_each_axis() -> None:
    assert total_strides([2, 2, 2], 3) == (8, 8, 8)
    assert total_strides([1, [2, 2, 1], 2], 3) == (4, 4, 2)
    assert total_strides(None, 2) is None
    assert total_strides([], 2) == (1, 1)
    with pytest.raises(UsageError, match=r"model\.strides needs one value or 3 values a level"):
        total_strides([[2, 2]], 3)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from integrity_examples import case, demands, image, names, noise, told

from medexp.core.faults import Severity
from medexp.data.integrity import pixels
from medexp.data.integrity.pixels import is_ct

CT = demands(spatial_dims=3, channels=("CT",))
PET_CT = demands(channels=("CT", "PET"))


def ct(low: float, high: float) -> np.ndarray:
    values = np.linspace(low, high, 6 * 6 * 4).reshape(1, 6, 6, 4)
    return values.astype(np.float32)


def test_a_sound_image_has_no_fault() -> None:
    for check in (pixels.wrong_channels, pixels.not_finite, pixels.constant, pixels.wrapped, pixels.hounsfield):
        assert told(check, image()) == []


def test_a_picture_in_colour_where_grey_is_declared_is_recognised() -> None:
    (fault,) = told(pixels.wrong_channels, image(noise(3, 8, 9)))
    assert (fault.check, fault.severity) == ("wrong_channels", Severity.ERROR)
    assert "1 channel (image)" in fault.expected
    assert "colour" in fault.found
    assert "grey" in fault.remedy


def test_a_missing_channel_is_told_with_the_declared_ones() -> None:
    (fault,) = told(pixels.wrong_channels, image(noise(1, 8, 9)), PET_CT)
    assert fault.expected == "2 channels (CT, PET)"
    assert fault.found == "1"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_voxel_that_is_not_finite_is_told_with_its_place_and_the_channels_file(value: float) -> None:
    voxels = noise(2, 8, 9)
    voxels[1, 2, 3] = voxels[1, 5, 0] = value
    read = image(voxels, of=case(images=(Path("ct.nii"), Path("pet.nii"))))
    (fault,) = told(pixels.not_finite, read, PET_CT)
    assert (fault.check, fault.case_id, fault.file) == ("not_finite", "a", Path("pet.nii"))
    assert "channel PET" in fault.expected
    assert "2 voxels" in fault.found
    assert "(2, 3)" in fault.found


def test_an_image_of_nan_alone_is_told_once() -> None:
    read = image(np.full((1, 8, 9), np.nan))
    assert names(told(pixels.not_finite, read)) == ["not_finite"]
    assert told(pixels.constant, read) == []


def test_a_constant_image_is_an_error_and_a_constant_channel_beside_others_a_warning() -> None:
    flat = np.full((1, 8, 9), 3.0, dtype=np.float32)
    (whole,) = told(pixels.constant, image(flat))
    assert (whole.check, whole.severity) == ("constant_image", Severity.ERROR)
    assert "3 in every voxel" in whole.found
    (one,) = told(pixels.constant, image(np.concatenate([noise(1, 8, 9), flat])), PET_CT)
    assert (one.check, one.severity) == ("constant_channel", Severity.WARNING)
    assert "PET" in one.expected


def smooth_16_bit() -> np.ndarray:
    """A smooth picture that uses all 65,536 grey levels."""
    return np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)


def test_grey_levels_of_16_bits_that_were_stored_as_signed_are_recognised() -> None:
    wrapped = smooth_16_bit().astype(np.int16)
    assert wrapped.min() < 0
    (fault,) = told(pixels.wrapped, image(wrapped[None].astype(np.float32)))
    assert fault.check == "wrapped_intensities"
    assert fault.found.startswith(f"{wrapped.min()} to {wrapped.max()}")
    assert "unsigned" in fault.remedy


def test_the_same_grey_levels_stored_as_they_are_have_no_fault() -> None:
    assert told(pixels.wrapped, image(smooth_16_bit()[None].astype(np.float32))) == []


def test_a_signed_image_of_the_full_range_that_is_smooth_as_it_is_has_no_fault() -> None:
    signed = np.linspace(-32768, 32767, 64 * 64).reshape(1, 64, 64).astype(np.int16)
    assert told(pixels.wrapped, image(signed.astype(np.float32))) == []


def test_fractions_in_the_full_range_are_no_stored_integers() -> None:
    wrapped = smooth_16_bit().astype(np.int16).astype(np.float32) + 0.5
    assert told(pixels.wrapped, image(wrapped[None])) == []


@pytest.mark.parametrize(
    ("low", "high"),
    [(-1024, 3071), (-3024, 1500), (-1000, 200), (-200, 900)],
    ids=["12 bits", "padding", "chest", "cut"],
)
def test_hounsfield_units_have_no_fault(low: float, high: float) -> None:
    assert told(pixels.hounsfield, image(ct(low, high)), CT) == []


@pytest.mark.parametrize(
    ("low", "high", "words", "severity"),
    [
        (0, 4095, "slope and intercept", Severity.ERROR),
        (-1024, 100_000, "beyond -8192 to 32767", Severity.ERROR),
        (-32768, 3000, "beyond -8192 to 32767", Severity.ERROR),
        (0, 255, "windowed", Severity.WARNING),
        (-1, 1, "normalised", Severity.WARNING),
    ],
)
def test_a_ct_without_hounsfield_units_is_told(low: float, high: float, words: str, severity: Severity) -> None:
    (fault,) = told(pixels.hounsfield, image(ct(low, high)), CT)
    assert (fault.check, fault.severity) == ("hounsfield_range", severity)
    assert words in fault.found


def test_no_other_modality_is_held_against_hounsfield_units() -> None:
    mr = demands(spatial_dims=3, channels=("MRI",))
    assert told(pixels.hounsfield, image(ct(0, 4095)), mr) == []


@pytest.mark.parametrize("name", ["CT", "ct", "CT_venous", "PET-CT", "CBCT"])
def test_a_ct_is_known_by_the_name_of_its_channel(name: str) -> None:
    assert is_ct(name)


@pytest.mark.parametrize("name", ["image", "T1", "OCT", "structure", "activity", "ctDNA", "hue"])
def test_other_channels_are_no_ct(name: str) -> None:
    assert not is_ct(name)

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from medexp.core.errors import UsageError
from medexp.core.types import Image
from medexp.data.sources.phantom_sequence import PhantomSequence

KNOBS: dict[str, Any] = {"n_cases": 3, "shape": [32, 24, 5], "spacing_mm": [1.0, 1.0, 2.0]}


def images(folder: Path, **knobs) -> list[Image]:
    source = PhantomSequence(cache_dir=folder, **(KNOBS | knobs))
    return [source.read(case) for case in source.cases()]


def test_a_case_depends_on_the_knobs_the_seed_and_its_number_alone(tmp_path: Path) -> None:
    few, many = images(tmp_path / "a"), images(tmp_path / "b", n_cases=5)
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(few, many, strict=False))
    assert not np.array_equal(many[0].pixels, many[1].pixels)
    assert not np.array_equal(images(tmp_path, seed=1)[0].pixels, few[0].pixels)
    assert few[0].pixels.shape == (1, 32, 24, 5)
    assert few[0].geometry.spacing_mm == (1.0, 1.0, 2.0)


@pytest.mark.parametrize("lag", [1, 2, -1])
def test_the_mark_lies_in_the_middle_of_the_disc_that_is_labelled_so_many_slices_on(tmp_path: Path, lag: int) -> None:
    for image in images(tmp_path, lag=lag, noise=0.0):
        for k in range(5):
            mask = image.annotation.mask[..., k]
            if not 0 <= k - lag < 5:
                assert not mask.any()
                continue
            marks = image.pixels[0, ..., k - lag] == 1.0
            assert bool(mask[marks].all())
            np.testing.assert_allclose(ndimage.center_of_mass(marks), ndimage.center_of_mass(mask), atol=1.0)


def test_each_slice_has_four_discs_of_which_one_is_labelled_and_none_looks_other(tmp_path: Path) -> None:
    for image in images(tmp_path, noise=0.0):
        discs, n_discs = ndimage.label(image.pixels[0, ..., -1] > 0)
        assert n_discs == 4
        assert len(set(discs[image.annotation.mask[..., -1] == 1])) == 1
        assert set(np.unique(image.pixels[0, ..., -1])) == {0.0, 0.5}, "the last slice has no mark"


def test_noise_has_its_standard_deviation(tmp_path: Path) -> None:
    quiet, noisy = (images(tmp_path, noise=noise)[0].pixels for noise in (0.0, 0.2))
    assert float((noisy - quiet).std()) == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"shape": [32, 32]}, "shape of a sequence phantom in 3D needs 3 values"),
        ({"shape": [8, 32, 4]}, "at least 16 voxels"),
        ({"spacing_mm": [0.0, 1.0, 1.0]}, "positive lengths"),
        ({"lag": 0}, "lag of a sequence phantom needs a whole number that is not 0"),
        ({"lag": -5}, "less than the slices"),
        ({"noise": -0.1}, "noise of a sequence phantom needs 0 or more"),
        ({"seed": -1}, "seed of a sequence phantom"),
        ({"n_cases": 0}, "n_cases of a sequence phantom needs at least 1"),
    ],
)
def test_a_knob_that_cannot_be_drawn_is_refused(tmp_path: Path, knobs: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as error:
        images(tmp_path, **knobs)
    assert told in str(error.value)

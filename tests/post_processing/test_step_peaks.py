from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy.spatial.distance import pdist
from skimage.feature import peak_local_max

from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.types import Kind, Prediction, StructureClass
from medexp.post_processing.peaks import Peaks

CONF = Path(__file__).parents[2] / "conf" / "post_processing" / "peaks.yaml"
CLASSES = (StructureClass("a", 0, 1), StructureClass("b", 0, 4))


def peaks_of(**knobs) -> Peaks:
    return Peaks(**({"min_distance_mm": 4.0, "min_score": 0.3} | knobs))


def gaussian(shape, center, sigma_px) -> np.ndarray:
    """A Gaussian of sum one around a place; voxel i covers [i, i + 1)."""
    grid = np.meshgrid(*(np.arange(n) + 0.5 for n in shape), indexing="ij")
    squares = sum(
        ((axis - c) / s) ** 2 for axis, c, s in zip(grid, center, np.broadcast_to(sigma_px, len(shape)), strict=True)
    )
    return np.exp(-squares / 2) / np.exp(-squares / 2).sum()


def predicted(density: np.ndarray, spacing=None, classes=CLASSES) -> Prediction:
    density = density.astype(np.float32)
    density.setflags(write=False)
    shape = density.shape[1:]
    geometry = Geometry.from_spacing(shape, spacing or (1.0,) * len(shape))
    return Prediction("case_7", "patient_3", geometry, classes[: len(density)], maps={"density": density})


@pytest.mark.parametrize(
    ("shape", "spacing", "places"),
    [
        ((40, 40), (1.0, 1.0), [(10.5, 10.5), (10.5, 22.5), (30.5, 39.5)]),
        ((40, 20), (1.0, 2.0), [(10.5, 5.5), (10.5, 12.5), (30.5, 10.5)]),
        ((24, 24, 12), (1.0, 1.0, 2.0), [(6.5, 6.5, 3.5), (18.5, 6.5, 3.5), (6.5, 6.5, 9.5)]),
    ],
)
def test_each_gaussian_is_one_object_at_its_middle(shape, spacing, places):
    sigma_px = 2.0 / np.array(spacing)
    density = sum(gaussian(shape, place, sigma_px) for place in places)
    result = peaks_of(min_distance_mm=5.0)(predicted(density[None], spacing))
    assert sorted(map(tuple, result.objects.centers.tolist())) == sorted(places)
    assert np.array_equal(result.objects.low, result.objects.high)
    assert result.objects.scores.min() > 0.6


def test_a_score_is_what_the_density_holds_around_the_peak_whatever_the_voxels():
    expected = 1 - np.exp(-(5.0**2) / (2 * 2.0**2))  # of a Gaussian in 2D, inside a circle
    for spacing in ((1.0, 1.0), (0.5, 0.5), (0.5, 1.0)):
        shape = tuple(int(40 / step) for step in spacing)
        center = tuple(n // 2 + 0.5 for n in shape)
        density = gaussian(shape, center, 2.0 / np.array(spacing))
        result = peaks_of(min_distance_mm=5.0)(predicted(density[None], spacing))
        assert result.objects.scores == pytest.approx([expected], abs=0.03)
        assert peaks_of(min_distance_mm=5.0)(predicted(3 * density[None], spacing)).objects.scores.tolist() == [1.0]


@pytest.mark.parametrize("seed", range(4))
def test_no_two_objects_are_nearer_than_the_distance_and_the_highest_stay(seed):
    random = np.random.default_rng(seed)
    density, spacing = random.random((1, 30, 30)), (1.0, 1.7)
    result = peaks_of(min_distance_mm=4.0, min_score=0.0)(predicted(density, spacing))
    places = result.objects.centers - 0.5
    assert pdist(places * spacing).min() >= 4.0
    every = peak_local_max(density[0].astype(np.float32), exclude_border=False)
    assert set(map(tuple, places)) <= set(map(tuple, every.astype(float)))
    heights = density[0][tuple(places.astype(int).T)]
    assert heights.max() == pytest.approx(density[0][tuple(every.T)].max())
    for candidate in every:  # what was left out lies near one that is as high or higher
        near = np.linalg.norm((places - candidate) * spacing, axis=1) < 4.0
        assert (heights[near] >= density[0][tuple(candidate)] - 1e-6).any() or (places == candidate).all(axis=1).any()


def test_classes_are_found_each_in_its_channel():
    density = np.stack([gaussian((30, 30), (8.5, 8.5), 2.0), gaussian((30, 30), (9.5, 20.5), 2.0)])
    objects = peaks_of()(predicted(density)).objects
    assert objects.labels.tolist() == [1, 4]
    assert objects.centers.tolist() == [[8.5, 8.5], [9.5, 20.5]]


def test_noise_and_emptiness_hold_no_object():
    noise = np.random.default_rng(0).random((1, 40, 40)) * 0.1 / 50
    assert len(peaks_of()(predicted(noise)).objects) == 0
    assert len(peaks_of(min_score=0.0)(predicted(np.zeros((2, 10, 10)))).objects) == 0


def test_the_least_score_decides_and_the_density_stays():
    density = np.stack([0.4 * gaussian((30, 30), (8.5, 8.5), 1.0) + gaussian((30, 30), (20.5, 20.5), 1.0)])
    assert len(peaks_of(min_score=0.3)(predicted(density)).objects) == 2
    result = peaks_of(min_score=0.5)(predicted(density))
    assert result.objects.centers.tolist() == [[20.5, 20.5]]
    assert result.maps["density"].shape == density.shape


def test_the_option_file_lists_every_knob():
    knobs = OmegaConf.to_container(OmegaConf.load(CONF))
    assert knobs.pop("_target_") == "medexp.post_processing.peaks.Peaks"
    assert set(knobs) == set(inspect.signature(Peaks).parameters)
    assert (Peaks(**knobs).takes, Peaks(**knobs).gives) == (Kind.DENSITY, Kind.OBJECTS)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="min_distance_mm needs a finite value above 0"):
        peaks_of(min_distance_mm=0.0)
    with pytest.raises(UsageError, match="min_score needs a value from 0 to 1"):
        peaks_of(min_score=1.5)
    with pytest.raises(DataError, match="the density holds nan"):
        peaks_of()(predicted(np.full((1, 4, 4), np.nan)))
    with pytest.raises(DataError, match="needs a density with a channel for each class"):
        peaks_of()(Prediction("x", "x", Geometry.from_spacing((4, 4), (1.0, 1.0)), CLASSES))

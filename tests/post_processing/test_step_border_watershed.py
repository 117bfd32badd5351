from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from skimage.segmentation import watershed

from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.types import Kind, Prediction, StructureClass
from medexp.post_processing.border_watershed import BorderWatershed
from medexp.post_processing.chain import Chain

CLASSES = (StructureClass("plain", 0, 1), StructureClass("mitotic", 0, 3))


def predict(
    plain: np.ndarray,
    border: np.ndarray,
    mitotic: np.ndarray | None = None,
    *,
    spacing: tuple[float, ...] | None = None,
) -> Prediction:
    """A prediction with probabilities of two classes and of the border, all read-only."""
    mitotic = np.zeros(plain.shape) if mitotic is None else mitotic
    soft = np.stack([1 - plain - mitotic, plain, mitotic]).astype(np.float32)
    maps = {"border": np.asarray(border, dtype=np.float32)[None]}
    for array in (soft, maps["border"]):
        array.setflags(write=False)
    geometry = Geometry.from_spacing(plain.shape, spacing or (1.0,) * plain.ndim)
    return Prediction("case_7", "patient_3", geometry, CLASSES, probabilities=soft, maps=maps)


def row(*values: float) -> np.ndarray:
    return np.array([values], dtype=np.float64)


def balls(shape: tuple[int, ...], centres: list[tuple[int, ...]], radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Touching balls: the number of the nearest centre within a radius, and the borders between and around them."""
    places = np.moveaxis(np.indices(shape), 0, -1)
    distances = np.stack([np.linalg.norm(places - np.array(centre), axis=-1) for centre in centres])
    truth = np.where(distances.min(axis=0) <= radius, distances.argmin(axis=0) + 1, 0)
    inner = [ndimage.binary_erosion(truth == k, border_value=1) for k in range(1, len(centres) + 1)]
    return truth, (truth > 0) & ~np.any(inner, axis=0)


@pytest.mark.parametrize(
    ("shape", "centres"),
    [((30, 44), [(15, 10), (15, 22), (15, 34)]), ((16, 20, 34), [(8, 9, 10), (8, 9, 22)])],
    ids=["2d", "3d"],
)
def test_touching_objects_are_found_whole(shape, centres):
    truth, border = balls(shape, centres, 7.0)
    assert ndimage.label(truth)[1] == 1
    result = BorderWatershed()(predict(0.9 * (truth > 0), border))
    assert len(result.objects) == len(centres)
    for number in range(1, len(centres) + 1):
        found = result.instances == np.bincount(result.instances[truth == number]).argmax()
        same = truth == number
        assert (found & same).sum() / (found | same).sum() > 0.9
    assert np.array_equal(result.instances > 0, truth > 0)


def test_the_flood_agrees_with_the_watershed_of_skimage():
    rng = np.random.default_rng(0)
    soft = ndimage.gaussian_filter(rng.random((40, 50)), 2.0)
    soft = ((soft - soft.min()) / np.ptp(soft)).astype(np.float32)
    border = ndimage.gaussian_filter(rng.random((40, 50)), 1.0)
    border = ((border - border.min()) / np.ptp(border)).astype(np.float32)
    step = BorderWatershed(foreground_threshold=0.3, seed_threshold=0.5, border_threshold=0.4)
    found = step(predict(soft, border)).instances
    seeds, _ = ndimage.label((soft >= 0.5) & (border < 0.4))
    parts, n = ndimage.label(soft >= 0.3)
    alone = [k for k in range(1, n + 1) if not seeds[parts == k].any()]
    seeds = np.where(np.isin(parts, alone), parts + seeds.max(), seeds)
    expected = watershed(-soft * (1 - border), seeds, mask=soft >= 0.3)
    pairs = np.unique(np.stack([found.ravel(), expected.ravel()]), axis=1)
    assert len(pairs[0]) == len(set(pairs[0])) == len(set(pairs[1])) > 10  # the same objects by other numbers


def test_every_threshold_counts():
    plain = row(0.9, 0.8, 0.55, 0.8, 0.9, 0.0, 0.4)
    border = row(0.0, 0.3, 0.6, 0.3, 0.0, 0.0, 0.0)
    prediction = predict(plain, border)
    assert BorderWatershed()(prediction).instances[0, [0, 4]].tolist() == [1, 2]
    assert BorderWatershed(border_threshold=0.7)(prediction).instances.tolist() == [[1, 1, 1, 1, 1, 0, 0]]
    assert BorderWatershed(border_threshold=0.7, seed_threshold=0.6)(prediction).instances.max() == 2
    low = BorderWatershed(foreground_threshold=0.3, border_threshold=0.7)(prediction)
    assert low.instances.tolist() == [[1, 1, 1, 1, 1, 0, 2]]


def test_a_part_without_a_seed_is_one_object():
    result = BorderWatershed()(predict(row(0.9, 0.9, 0.9, 0.0, 0.9, 0.9), row(0.9, 0.1, 0.9, 0.0, 0.9, 0.9)))
    assert result.instances.tolist() == [[1, 1, 1, 0, 2, 2]]


def test_a_small_seed_makes_no_object_of_its_own():
    prediction = predict(np.full((1, 7), 0.9), row(0.0, 0.0, 0.0, 0.9, 0.0, 0.9, 0.9), spacing=(2.0, 1.0))
    assert BorderWatershed(min_seed_mm3=2.0)(prediction).instances.max() == 2
    assert BorderWatershed(min_seed_mm3=2.1)(prediction).instances.tolist() == [[1] * 7]


def test_small_objects_are_left_out_by_their_volume():
    prediction = predict(row(0.9, 0.9, 0.0, 0.9), np.zeros((1, 4)), spacing=(2.0, 1.5))
    assert len(BorderWatershed(min_volume_mm3=3.0)(prediction).objects) == 2
    result = BorderWatershed(min_volume_mm3=3.1)(prediction)
    assert result.instances.tolist() == [[1, 1, 0, 0]]
    assert result.mask.tolist() == [[[1, 1, 0, 0]]]


def test_seeds_join_over_corners_only_if_told():
    plain = np.array([[0.9, 0.0], [0.0, 0.9]])
    assert BorderWatershed()(predict(plain, np.zeros((2, 2)))).instances.max() == 2
    assert BorderWatershed(connectivity="corners")(predict(plain, np.zeros((2, 2)))).instances.max() == 1


def test_class_and_score_are_those_of_the_highest_mean_probability():
    plain, mitotic = row(0.6, 0.3, 0.3, 0.0, 0.6), row(0.3, 0.6, 0.6, 0.0, 0.2)
    result = BorderWatershed()(predict(plain, np.zeros((1, 5)), mitotic))
    assert result.instances.tolist() == [[1, 1, 1, 0, 2]]
    assert result.objects.labels.tolist() == [3, 1]
    assert result.objects.scores == pytest.approx([0.5, 0.6], abs=1e-6)
    assert result.mask.tolist() == [[[3, 3, 3, 0, 1]]]


def test_classes_that_are_only_likely_together_are_foreground():
    result = BorderWatershed()(predict(row(0.4, 0.0), np.zeros((1, 2)), row(0.45, 0.0)))
    assert result.instances.tolist() == [[1, 0]]
    assert result.objects.labels.tolist() == [3]


@pytest.mark.parametrize("shape", [(6, 7), (4, 5, 6)])
def test_an_image_without_an_object_has_none(shape):
    result = BorderWatershed()(predict(np.full(shape, 0.1), np.zeros(shape)))
    assert len(result.objects) == 0
    assert result.objects.spatial_dims == len(shape)
    assert not result.instances.any()
    assert not result.mask.any()


def test_an_object_may_fill_the_image():
    result = BorderWatershed()(predict(np.ones((3, 4)), np.zeros((3, 4))))
    assert result.objects.boxes.tolist() == [[0, 0, 3, 4]]


def test_it_leads_from_borders_to_instances():
    Chain([BorderWatershed()], takes=Kind.BORDERS, gives=Kind.INSTANCES)


def test_predictions_that_do_not_fit_are_refused():
    prediction, step = predict(np.ones((2, 2)), np.zeros((2, 2))), BorderWatershed()
    with pytest.raises(DataError, match="case case_7 takes a map 'border' of 1 channel, got none"):
        step(replace(prediction, maps={}))
    with pytest.raises(DataError, match="takes a map 'border' of 1 channel, got 2 channels"):
        step(replace(prediction, maps={"border": np.zeros((2, 2, 2), np.float32)}))
    with pytest.raises(DataError, match="the map 'border' holds nan"):
        step(replace(prediction, maps={"border": np.full((1, 2, 2), np.nan, np.float32)}))
    with pytest.raises(UsageError, match="border_watershed in case case_7 takes probabilities"):
        step(replace(prediction, probabilities=None))
    with pytest.raises(UsageError, match="needs exclusive classes"):
        step(replace(prediction, exclusive=False))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"foreground_threshold": 0.0}, r"border_watershed\.foreground_threshold needs a probability"),
        ({"border_threshold": 1.5}, r"border_watershed\.border_threshold needs a probability .* got 1\.5"),
        (
            {"seed_threshold": 0.4},
            r"border_watershed\.seed_threshold needs at least foreground_threshold=0\.5, got 0\.4",
        ),
        ({"min_seed_mm3": -1.0}, r"border_watershed\.min_seed_mm3 needs a finite value"),
        ({"min_volume_mm3": float("nan")}, r"border_watershed\.min_volume_mm3 needs a finite value"),
        ({"connectivity": "full"}, r"border_watershed\.connectivity needs faces or corners"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs, message):
    with pytest.raises(UsageError, match=message):
        BorderWatershed(**knobs)

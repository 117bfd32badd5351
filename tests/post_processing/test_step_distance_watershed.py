from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf
from scipy import ndimage
from skimage.morphology import h_maxima
from skimage.segmentation import watershed

from medexp.core.errors import UsageError
from medexp.core.types import Kind, Prediction, StructureClass
from medexp.post_processing._joining import joined
from medexp.post_processing.chain import Chain
from medexp.post_processing.components import Components
from medexp.post_processing.distance_watershed import DistanceWatershed

CONF = Path(__file__).parents[2] / "conf" / "post_processing"


def balls_mm(shape: tuple[int, ...], spacing: tuple[float, ...], *balls: tuple[tuple[float, ...], float]) -> np.ndarray:
    """Number of the nearest ball (centre and radius in mm) of each voxel within one; measured in radii."""
    places = np.moveaxis(np.indices(shape), 0, -1) * np.array(spacing)
    reach = np.stack([np.linalg.norm(places - np.array(centre), axis=-1) / radius for centre, radius in balls])
    return np.where(reach.min(axis=0) <= 1, reach.argmin(axis=0) + 1, 0)


TOUCHING = {
    "2d": ((40, 66), (1.0, 1.0), [((20, 15), 11.0), ((20, 34), 10.0), ((20, 50), 8.0)]),
    "2d anisotropic": ((20, 66), (2.0, 1.0), [((20, 15), 11.0), ((20, 34), 10.0), ((20, 50), 8.0)]),
    "3d": ((24, 24, 40), (1.0, 1.0, 1.0), [((12, 12, 11), 9.0), ((12, 12, 27), 8.5)]),
    "3d anisotropic": ((8, 24, 40), (3.0, 1.0, 1.0), [((12, 12, 11), 9.0), ((12, 12, 27), 8.5)]),
}


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


@pytest.mark.parametrize("name", TOUCHING)
def test_touching_objects_are_told_apart(predict, name):
    shape, spacing, balls = TOUCHING[name]
    truth = balls_mm(shape, spacing, *balls)
    given = predict(mask=(truth > 0)[None].astype(np.uint8), spacing=spacing)
    assert len(Components()(given).objects) == 1
    result = DistanceWatershed(h_mm=1.0)(given)
    assert len(result.objects) == len(balls)
    for number in range(1, len(balls) + 1):
        assert max(iou(truth == number, result.instances == k) for k in range(1, len(balls) + 1)) > 0.9
    assert np.array_equal(result.instances > 0, truth > 0)


@pytest.mark.parametrize("connectivity", ["faces", "corners"])
@pytest.mark.parametrize("seed", range(6))
def test_a_mask_of_one_class_is_divided_as_by_scipy_and_scikit_image(predict, seed, connectivity):
    rng = np.random.default_rng(seed)
    shape, spacing = ((40, 44), (1.0, 1.5)) if seed % 2 else ((12, 20, 22), (2.0, 1.0, 0.7))
    foreground = ndimage.gaussian_filter(rng.normal(size=shape), 2.0) > 0
    result = DistanceWatershed(h_mm=0.6, connectivity=connectivity)(
        predict(mask=foreground[None].astype(np.uint8), spacing=spacing)
    )
    cube = np.ones((3,) * len(shape))
    neighbours = ndimage.generate_binary_structure(len(shape), 1 if connectivity == "faces" else len(shape))
    depth = ndimage.distance_transform_edt(foreground, sampling=spacing).astype(np.float32)
    tops = h_maxima(depth.astype(np.float64), 0.6, footprint=cube)
    parts, n_parts = ndimage.label(foreground, neighbours)
    seeds, count = np.zeros(shape, dtype=int), 0
    for part in range(1, n_parts + 1):
        own, n_own = ndimage.label((parts == part) & (tops if tops[parts == part].any() else True), cube)
        seeds[own > 0] = own[own > 0] + count
        count += n_own
    expected = watershed(-depth, seeds, mask=foreground, connectivity=neighbours)
    assert len(result.objects) == count > 1
    # Where two floods meet at one depth, the order of the seeds decides.
    agree = sum(np.bincount(expected[result.instances == k]).max() for k in range(1, count + 1))
    assert agree >= 0.98 * foreground.sum()


def test_classes_that_touch_are_divided_each_by_itself(predict):
    shape = (40, 66)
    truth = balls_mm(shape, (1.0, 1.0), ((20, 15), 11.0), ((20, 34), 10.0), ((20, 50), 8.0))
    mask = np.where(truth == 2, 3, (truth > 0).astype(np.uint8))[None].astype(np.uint8)
    result = DistanceWatershed()(predict(mask=mask))
    assert sorted(result.objects.labels.tolist()) == [1, 1, 3]
    assert np.array_equal(result.mask, mask)


@pytest.mark.parametrize("shape", [(9, 10), (5, 5, 6)])
def test_the_number_of_objects_falls_with_h(predict, shape):
    parts = np.random.default_rng(0).choice([0, 1, 3], size=shape, p=[0.5, 0.25, 0.25])
    given = predict(mask=np.kron(parts, np.ones([4] * len(shape)))[None].astype(np.uint8))
    counts = [len(DistanceWatershed(h_mm=h)(given).objects) for h in (0.1, 0.5, 1.0, 1e3)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == len(Components()(given).objects)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 0.5), (4.0, 4.0)])
def test_h_is_in_mm(predict, spacing):
    scale = spacing[0]
    truth = balls_mm((40, 66), (1.0, 1.0), ((20, 15), 11.0), ((20, 34), 10.0))
    given = predict(mask=(truth > 0)[None].astype(np.uint8), spacing=spacing)
    depth = ndimage.distance_transform_edt(truth > 0)
    neck = depth[20, 15:35].min()
    rise = float(depth[truth == 2].max() - neck)  # in voxels, between the smaller disc and the neck
    assert len(DistanceWatershed(h_mm=0.9 * rise * scale)(given).objects) == 2
    assert len(DistanceWatershed(h_mm=1.1 * rise * scale)(given).objects) == 1


def test_a_plateau_over_a_corner_is_one_object(predict):
    rows = ["00000110", "00001110", "00001110", "00111111", "00111111", "01111100", "01111100"]
    mask = np.pad(np.array([list(line) for line in rows]).astype(np.uint8), 1)
    depth = ndimage.distance_transform_edt(mask)
    deepest = depth == depth.max()
    assert (ndimage.label(deepest)[1], ndimage.label(deepest, np.ones((3, 3)))[1]) == (2, 1)
    assert len(DistanceWatershed(h_mm=1.0)(predict(mask=mask[None])).objects) == 1


def row(*values: int) -> np.ndarray:
    return np.array([values], dtype=np.uint8)


def with_a_bump(spacing: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    """A disc with a small one at its side, and one that is alone."""
    truth = balls_mm((40, 60), spacing, ((18, 15), 12.0), ((18, 29), 3.5), ((18, 50), 3.5))
    return (truth > 0)[None].astype(np.uint8)


def test_small_objects_are_dropped_or_joined_to_what_they_touch(predict):
    given = predict(mask=with_a_bump())
    knobs = {"h_mm": 0.5, "min_volume_mm3": 100.0}
    assert len(DistanceWatershed(h_mm=0.5)(given).objects) == 3
    dropped, kept = (DistanceWatershed(**knobs, small=small)(given) for small in ("drop", "join"))
    assert len(dropped.objects) == len(kept.objects) == 1
    whole = Components(min_volume_mm3=100.0)(given)
    assert np.array_equal(kept.instances, whole.instances)
    assert dropped.instances.sum() < kept.instances.sum()
    assert np.array_equal(dropped.mask[0], dropped.instances)


def test_a_small_object_joins_the_one_with_the_largest_common_surface():
    numbers = np.array([[1, 1, 1, 1], [1, 3, 3, 2], [1, 2, 2, 2]], dtype=np.int32)
    assert joined(numbers, 3, (1.0, 1.0))[1, 1] == 1  # as much with both: the lower number
    numbers[2, 1] = 1
    assert joined(numbers, 3, (1.0, 1.0))[1, 1] == 1
    numbers[0, 1:3] = 0
    numbers[2, 1:3] = 2
    assert joined(numbers, 3, (1.0, 1.0))[1, 1] == 2


def test_a_surface_is_measured_in_mm():
    numbers = np.array([[1, 3], [1, 2], [1, 2]], dtype=np.int32)  # 3 lies beside 1 over a column, above 2 over a row
    assert joined(numbers, 2, (3.0, 1.0))[0, 1] == 1
    assert joined(numbers, 2, (1.0, 3.0))[0, 1] == 2


def test_joining_goes_on_until_all_are_large_enough_or_alone():
    result = joined(row(1, 2, 3, 4, 0, 5).astype(np.int32), 4, (1.0, 1.0))[0]
    assert len(set(result[:4].tolist())) == 1
    assert result[4:].tolist() == [0, 5]
    assert joined(row(1, 0, 2, 2).astype(np.int32), 2, (1.0, 1.0)).tolist() == [[1, 0, 2, 2]]


@pytest.mark.parametrize("seed", range(4))
def test_after_joining_whatever_is_too_small_touches_nothing(seed):
    rng = np.random.default_rng(seed)
    shape = (20, 22) if seed % 2 else (8, 9, 10)
    numbers = (rng.integers(1, 40, shape) * (rng.random(shape) < 0.8)).astype(np.int32)
    result = joined(numbers, 30, (1.0,) * len(shape))
    assert np.array_equal(result > 0, numbers > 0)
    voxels = np.bincount(result.ravel())
    faces = ndimage.generate_binary_structure(len(shape), 1)
    for number in np.setdiff1d(np.flatnonzero((voxels > 0) & (voxels < 30)), [0]):
        around = ndimage.binary_dilation(result == number, faces) & (result != number)
        assert not result[around].any()


def test_the_largest_volume_is_measured_in_mm3(predict):
    given = predict(mask=with_a_bump(), spacing=(2.0, 2.0))
    sizes = np.bincount(Components()(given).instances.ravel())[1:] * 4.0
    middle = float(sizes.min())
    found = DistanceWatershed(h_mm=1e3, max_volume_mm3=middle)(given)
    assert len(found.objects) == 1  # one exactly as large stays
    assert len(DistanceWatershed(h_mm=1e3, max_volume_mm3=middle - 4.0)(given).objects) == 0


@pytest.mark.parametrize("shape", [(1, 4, 5), (1, 3, 4, 5)])
def test_an_empty_mask_has_no_object_and_a_full_one_is_one(predict, shape):
    empty = DistanceWatershed()(predict(mask=np.zeros(shape, np.uint8)))
    assert len(empty.objects) == 0
    assert not empty.instances.any()
    full = DistanceWatershed(small="join", min_volume_mm3=2.0)(predict(mask=np.ones(shape, np.uint8)))
    assert len(full.objects) == 1
    assert full.instances.all()


def test_an_object_cut_by_the_border_is_deepest_at_the_border(predict):
    # A half disc at the border, were the border a surface, would have its depth in the middle of the half.
    truth = balls_mm((20, 40), (1.0, 1.0), ((0, 20), 12.0))
    assert len(DistanceWatershed(h_mm=0.1)(predict(mask=(truth > 0)[None].astype(np.uint8))).objects) == 1


def test_the_score_is_the_mean_probability_of_the_class_inside(predict):
    soft = np.array([[[0.0, 0.2, 0.9, 0.1]], [[0.8, 0.6, 0.1, 0.0]], [[0.2, 0.2, 0.0, 0.9]]])
    result = DistanceWatershed()(predict(mask=row(1, 1, 0, 3)[None], probabilities=soft))
    assert result.objects.scores == pytest.approx([0.7, 0.9])


def test_the_argument_is_left_as_it_was_and_it_leads_from_a_mask_to_instances(predict, scattered):
    given = predict(mask=scattered)
    DistanceWatershed(small="join", min_volume_mm3=3.0)(given)
    assert given.instances is None
    assert np.array_equal(given.mask, scattered)
    Chain([DistanceWatershed()], takes=Kind.MASK, gives=Kind.INSTANCES)


def test_overlapping_regions_and_a_missing_mask_are_refused(predict):
    regions = (StructureClass("whole", 0, 1), StructureClass("core", 1, 1))
    given: Prediction = predict(mask=np.ones((2, 3, 3), np.uint8), classes=regions, exclusive=False)
    with pytest.raises(UsageError, match="distance_watershed in case case_7 needs exclusive classes"):
        DistanceWatershed()(given)
    with pytest.raises(UsageError, match="distance_watershed takes a mask, and case case_7 has none"):
        DistanceWatershed()(predict(probabilities=np.zeros((3, 2, 2))))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"h_mm": 0.0}, r"distance_watershed\.h_mm needs a finite value above 0, got 0\.0"),
        ({"connectivity": "full"}, r"distance_watershed\.connectivity needs faces or corners"),
        ({"min_volume_mm3": -1.0}, r"distance_watershed\.min_volume_mm3 needs a finite value of at least 0"),
        ({"max_volume_mm3": -1.0}, r"distance_watershed\.max_volume_mm3 needs a finite value of at least 0"),
        (
            {"min_volume_mm3": 5.0, "max_volume_mm3": 4.0},
            r"distance_watershed\.max_volume_mm3 needs at least min_volume_mm3=5\.0, got 4\.0",
        ),
        ({"small": "keep"}, r"distance_watershed\.small needs drop or join, got 'keep'"),
    ],
)
def test_knobs_without_a_meaning_are_refused(knobs, message):
    with pytest.raises(UsageError, match=message):
        DistanceWatershed(**knobs)


def test_option_file_lists_every_knob_with_its_default():
    config = OmegaConf.load(CONF / "distance_watershed.yaml")
    knobs = inspect.signature(get_class(config.pop("_target_"))).parameters
    assert dict(config) == {knob.name: knob.default for knob in knobs.values()}

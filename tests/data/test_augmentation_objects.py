"""Instances, boxes and places in patches that are cut, turned, scaled and flipped; pixels are in test_augmentation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import regionprops

from medexp.core.objects import Objects
from medexp.core.types import Annotation
from medexp.data.augmentation import Drawn, cut_patch

# Angles, scale, centre, patch and flipped axes.
Cut = tuple[tuple[float, ...], float, tuple[float, ...], tuple[int, ...], tuple[int, ...]]

# A patch that is only cut lies on whole voxels, so its centre is a voxel's centre along axes of odd size and a face
# along even ones.
STRAIGHT: list[Cut] = [
    ((), 1.0, (20.0, 17.5), (15, 16), ()),
    ((), 1.0, (20.5, 17.0), (28, 33), (0,)),
    ((), 1.0, (3.0, 33.0), (21, 21), (0, 1)),
    ((), 1.4, (20.1, 17.6), (24, 31), (1,)),
    ((), 0.73, (20.3, 17.8), (20, 21), (0,)),
    ((), 1.3, (10.0, 11.2, 8.0), (18, 15, 16), (0, 2)),
    ((), 1.0, (9.5, 11.0, 8.5), (16, 21, 18), (1,)),
]
ASKEW: list[Cut] = [
    ((30.0,), 1.0, (20.0, 17.0), (19, 22), ()),
    ((-75.0,), 1.3, (20.5, 16.6), (26, 31), (1,)),
    ((90.0,), 1.0, (19.0, 18.0), (17, 17), (0, 1)),
    ((0.0, 25.0, 0.0), 1.0, (9.0, 10.5, 8.0), (14, 16, 13), (0,)),
    ((25.0, 0.0, -40.0), 0.8, (9.0, 10.0, 7.0), (12, 13, 14), (1, 2)),
]


def matrix_of(cut: Cut) -> np.ndarray:
    """From offsets in the patch to offsets in the image."""
    degrees, scale, center, *_ = cut
    matrix = np.eye(len(center)) / scale
    for angle, (i, j) in zip(np.radians(degrees), [(0, 1), (0, 2), (1, 2)], strict=False):
        turn = np.eye(len(center))
        turn[[i, j], [i, j]], turn[i, j], turn[j, i] = math.cos(angle), math.sin(angle), -math.sin(angle)
        matrix = matrix @ turn
    return matrix


def shape_of(cut: Cut) -> tuple[int, ...]:
    return (40, 36) if len(cut[2]) == 2 else (20, 22, 18)


def cut_out(known: Annotation, cut: Cut) -> Annotation:
    degrees, scale, center, patch_size, flips = cut
    pixels = np.zeros((1, *shape_of(cut)), dtype=np.float32)
    drawn = Drawn(rotation_degrees=degrees, scale=scale, axes_flipped=flips)
    spacing_mm = (1.0,) * len(center)
    return cut_patch(pixels, known, center=center, patch_size=patch_size, drawn=drawn, spacing_mm=spacing_mm)[1]


def resampled(array: np.ndarray, cut: Cut, *, order: int, outside: float = 0.0) -> np.ndarray:
    """Patch voxel o shows the image at center + matrix @ (o - middle of the patch), then it is flipped."""
    matrix, (_, _, center, patch_size, flips) = matrix_of(cut), cut
    offset = np.array(center) - matrix @ ((np.array(patch_size) - 1) / 2)
    patch = ndimage.affine_transform(
        array, matrix, offset, output_shape=patch_size, order=order, mode="grid-constant", cval=outside
    )
    return np.flip(patch, flips)


def blobs(shape: tuple[int, ...], *, seed: int = 0, count: int = 14) -> tuple[np.ndarray, Objects]:
    """Rectangular instances that may touch and hide one another in part, of label ids 3 and 8."""
    random = np.random.default_rng(seed)
    instances = np.zeros(shape, dtype=np.int32)
    for number in range(1, count + 1):
        low = random.integers(0, np.array(shape) - 3)
        high = low + random.integers(3, 8, len(shape))
        instances[tuple(slice(*ends) for ends in zip(low, high, strict=True))] = number
    left = np.unique(instances[instances > 0])
    instances = np.searchsorted(left, instances) + (instances > 0)
    labels = {number: 3 if number % 2 else 8 for number in range(1, len(left) + 1)}
    return instances.astype(np.int32), Objects.of_instances(instances, labels)


@pytest.mark.parametrize("cut", STRAIGHT + ASKEW)
def test_instances_follow_the_voxels_and_keep_their_labels(cut):
    instances, objects = blobs(shape_of(cut))
    patch = cut_out(Annotation(instances=instances, objects=objects), cut)
    expected = resampled(instances, cut, order=0)
    number = np.zeros(instances.max() + 1, dtype=int)
    number[np.unique(expected)[1:]] = np.arange(1, len(np.unique(expected)))
    # A voxel that lies between two ids to the last digit may take either.
    assert (number[expected] == patch.instances).mean() > 0.98
    regions = regionprops(patch.instances)
    assert [region.label for region in regions] == list(range(1, len(regions) + 1))
    assert patch.objects.boxes.tolist() == [list(region.bbox) for region in regions]
    for region in regions:
        (before,) = np.unique(expected[(patch.instances == region.label) & (number[expected] == region.label)])
        assert patch.objects.labels[region.label - 1] == objects.labels[before - 1]


@pytest.mark.parametrize("cut", STRAIGHT)
def test_boxes_lie_around_the_voxels_of_their_objects(cut):
    shape = shape_of(cut)
    random = np.random.default_rng(1)
    checked = 0
    for _ in range(80):
        low = random.integers(-2, np.array(shape) - 3)
        high = low + random.integers(3, 9, len(shape))
        box = np.concatenate([low, high])[None].astype(float)
        patch = cut_out(Annotation(objects=Objects.of(box, np.array([4]))), cut).objects
        if len(patch) == 0:
            continue
        # A wider image, so that boxes that leave it have voxels there.
        padded = np.zeros([n + 40 for n in shape], dtype=np.uint8)
        padded[tuple(slice(first + 20, stop + 20) for first, stop in zip(low, high, strict=True))] = 1
        wider = (*cut[:2], tuple(value + 20 for value in cut[2]), *cut[3:])
        (seen,) = ndimage.find_objects(resampled(padded, wider, order=0))
        checked += 1
        np.testing.assert_array_less(np.abs(patch.low[0] - [axis.start for axis in seen]), 1.0)
        np.testing.assert_array_less(np.abs(patch.high[0] - [axis.stop for axis in seen]), 1.0)
    assert checked > 5


@pytest.mark.parametrize("cut", ASKEW)
def test_a_turned_box_holds_the_voxels_of_its_object(cut):
    low = np.array(cut[2]).astype(int) - 2
    high = low + np.array([6, 3, 4])[: len(low)]
    instances = np.zeros(shape_of(cut), dtype=np.int32)
    instances[tuple(slice(*ends) for ends in zip(low, high, strict=True))] = 1
    patch = cut_out(Annotation(objects=Objects.of_instances(instances, {1: 5})), cut).objects
    seen = resampled(instances, cut, order=0)
    assert len(patch) == 1
    voxels = np.argwhere(seen == 1) + 0.5
    # A voxel's centre lies up to half a voxel beside what it shows.
    assert (voxels > patch.low[0] - 0.5).all()
    assert (voxels < patch.high[0] + 0.5).all()


@pytest.mark.parametrize("cut", STRAIGHT + ASKEW)
def test_places_follow_the_image_exactly(cut):
    shape, patch_size = shape_of(cut), np.array(cut[3])
    random = np.random.default_rng(2)
    places = random.uniform(1, np.array(shape) - 1, size=(300, len(shape)))
    known = Annotation(objects=Objects.of(np.tile(places, (1, 2)), np.arange(300)))
    patch = cut_out(known, cut).objects
    assert np.array_equal(patch.low, patch.high)
    assert 5 < len(patch) < 300
    # An image whose intensities are its own coordinates tells what lies at a place of the patch; voxel i's centre is
    # at i + 1/2. A wide frame keeps the zeros outside away.
    wide = [np.arange(-60, n + 60, dtype=float) for n in shape]
    shifted = (*cut[:2], tuple(value + 60 for value in cut[2]), tuple(patch_size + 4), cut[4])
    for axis, ramp in enumerate(np.meshgrid(*wide, indexing="ij")):
        shown = resampled(ramp, shifted, order=1)
        found = ndimage.map_coordinates(shown, (patch.centers - 0.5 + 2).T, order=1)
        np.testing.assert_allclose(found + 0.5, places[patch.labels, axis], atol=1e-6)
    # And those that are gone lie outside.
    inverse = np.linalg.inv(matrix_of(cut))
    inside = np.abs((places - 0.5 - np.array(cut[2])) @ inverse.T) < patch_size / 2
    assert np.array_equal(np.flatnonzero(inside.all(axis=1)), patch.labels)


def test_a_plain_patch_between_voxels_takes_its_places_along():
    # Centre 5 of an even patch is a voxel's centre, so the patch lies half a voxel beside it, as its pixels do.
    pixels = np.arange(12 * 12, dtype=np.float32).reshape(1, 12, 12)
    place = Objects.of(np.array([[4.5, 6.5, 4.5, 6.5]]), np.array([1]))
    for center in [(5.0, 5.0), (5.5, 4.5), (4.9, 5.2)]:
        for flips in [(), (0,), (0, 1)]:
            patch, known = cut_patch(
                pixels,
                Annotation(objects=place),
                center=center,
                patch_size=(6, 6),
                drawn=Drawn(axes_flipped=flips),
                spacing_mm=(1.0, 1.0),
            )
            row, column = np.floor(known.objects.low[0]).astype(int)
            assert patch[0, row, column] == pixels[0, 4, 6]
            assert (known.objects.low[0] % 1).tolist() == [0.5, 0.5]


def test_a_box_that_the_patch_cuts_ends_at_its_edge():
    boxes = np.array([[0.0, 0, 10, 10], [0.0, 0, 7, 7], [12.0, 12, 30, 18], [9.0, 9, 9, 9]])
    known = Annotation(objects=Objects.of(boxes, np.array([1, 2, 3, 4])), image_labels=(6,))
    cut: Cut = ((), 1.0, (9.5, 9.5), (12, 12), ())  # voxels 4 to 15 of each axis
    patch = cut_out(known, cut)
    assert patch.objects.labels.tolist() == [1, 4]
    assert patch.objects.boxes.tolist() == [[0, 0, 6, 6], [5, 5, 5, 5]]
    assert patch.image_labels == (6,)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64"])
def test_ids_of_any_integer_type_are_cut(dtype):
    instances, objects = blobs((40, 36))
    whole = instances.astype(dtype)
    whole.flags.writeable = False
    for cut in (STRAIGHT[1], ASKEW[0]):
        expected = cut_out(Annotation(instances=instances, objects=objects), cut)
        patch = cut_out(Annotation(mask=whole, instances=whole, objects=objects), cut)
        assert np.array_equal(patch.instances, expected.instances)
        assert patch.instances.dtype == patch.mask.dtype == np.dtype(dtype)


def test_a_patch_beside_all_objects_has_none():
    instances, objects = blobs((40, 36))
    for known in (Annotation(instances=instances, objects=objects), Annotation(objects=objects)):
        for degrees in ((), (20.0,)):
            patch = cut_out(known, (degrees, 1.0, (200.0, -90.0), (8, 9), (1,)))
            assert patch.objects.boxes.shape == (0, 4)
            assert patch.instances is None or not patch.instances.any()

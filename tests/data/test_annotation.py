from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import regionprops

from medexp.core.geometry import Placement
from medexp.core.objects import Objects
from medexp.core.types import Annotation
from medexp.data.annotation import place_annotation, renumbered

INTEGERS = ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64"]
GRIDS = [((0, 1, 2), ()), ((2, 0, 1), (0,)), ((1, 2, 0), (1, 2)), ((2, 1, 0), (0, 1, 2))]


def scene(dtype: str = "int32") -> np.ndarray:
    """Three instances; the second is a single voxel."""
    instances = np.zeros((9, 12, 6), dtype=dtype)
    instances[0:4, 3:9, 0:3], instances[5, 0, 3], instances[6:9, 6:12, 3:6] = 1, 2, 3
    return instances


def annotation(dtype: str = "int32") -> Annotation:
    instances = scene(dtype)
    labels = {1: 7, 2: 5, 3: 9}
    mask = np.array([0, 7, 5, 9], dtype=dtype)[instances]
    objects = Objects.of_instances(instances, labels)
    return Annotation(mask=mask, instances=instances, objects=objects, image_labels=(5, 9))


def turned(array: np.ndarray, permutation: tuple[int, ...], flipped: tuple[int, ...]) -> np.ndarray:
    return np.flip(np.transpose(array, permutation), flipped)


def boxes_of(instances: np.ndarray) -> list[list[int]]:
    return [list(region.bbox) for region in regionprops(instances.astype(np.int32))]


def placement_of(permutation: tuple[int, ...], flipped: tuple[int, ...], factors: tuple[float, ...]) -> Placement:
    shape = tuple(round(scene().shape[axis] * factor) for axis, factor in zip(permutation, factors, strict=True))
    return Placement(scene().shape, permutation, flipped, shape)


@pytest.mark.parametrize(("permutation", "flipped"), GRIDS)
def test_voxels_and_boxes_go_to_the_network_s_grid_together(permutation, flipped):
    known = annotation()
    placed = place_annotation(known, placement_of(permutation, flipped, (2, 1, 3)))
    for ours, whole in ((placed.mask, known.mask), (placed.instances, known.instances)):
        expected = np.kron(turned(whole, permutation, flipped), np.ones((2, 1, 3), dtype=np.int32))
        assert np.array_equal(ours, expected)
    assert placed.objects.boxes.tolist() == boxes_of(placed.instances)
    assert placed.objects.labels.tolist() == [7, 5, 9]
    assert placed.image_labels == (5, 9)


@pytest.mark.parametrize(("permutation", "flipped"), GRIDS)
def test_an_instance_that_falls_between_the_voxels_is_left_out(permutation, flipped):
    known = annotation()
    placed = place_annotation(known, placement_of(permutation, flipped, (1 / 3, 1 / 3, 1 / 3)))
    # Of three voxels the middle one stays; the single voxel of instance 2 is none of them along any axis.
    thinned = turned(known.instances, permutation, flipped)[1::3, 1::3, 1::3]
    assert np.array_equal(placed.instances, np.array([0, 1, 0, 2])[thinned])
    assert placed.objects.labels.tolist() == [7, 9]
    assert placed.objects.boxes.tolist() == boxes_of(placed.instances)


@pytest.mark.parametrize("factors", [(2, 1, 3), (0.5, 2, 0.75)])
@pytest.mark.parametrize(("permutation", "flipped"), GRIDS)
def test_boxes_and_places_without_voxels_move_exactly(permutation, flipped, factors):
    random = np.random.default_rng(0)
    places = random.uniform(0, scene().shape, size=(6, 3))
    sizes = np.concatenate([np.zeros((3, 3)), random.uniform(0.5, 3, size=(3, 3))])
    objects = Objects.of(np.concatenate([places, places + sizes], axis=1), np.arange(6), random.uniform(size=6))
    placement = placement_of(permutation, flipped, factors)
    placed = place_annotation(Annotation(objects=objects), placement).objects
    low, high = np.empty((6, 3)), np.empty((6, 3))
    for axis, source in enumerate(permutation):
        scale = placement.resized_shape[axis] / scene().shape[source]
        ends = places[:, source], (places + sizes)[:, source]
        if axis in flipped:
            ends = scene().shape[source] - ends[1], scene().shape[source] - ends[0]
        low[:, axis], high[:, axis] = ends[0] * scale, ends[1] * scale
    np.testing.assert_allclose(placed.low, low, atol=1e-12)
    np.testing.assert_allclose(placed.high, high, atol=1e-12)
    assert np.array_equal(placed.labels, objects.labels)
    assert np.array_equal(placed.scores, objects.scores)


def test_what_is_not_known_stays_unknown():
    for known in (Annotation(), Annotation(image_labels=(3,)), Annotation(mask=scene())):
        placed = place_annotation(known, placement_of((0, 1, 2), (1,), (1, 1, 1)))
        assert [(placed.mask is None), placed.instances, placed.objects] == [known.mask is None, None, None]
        assert placed.image_labels == known.image_labels


def test_no_object_stays_no_object():
    for known in (
        Annotation(objects=Objects.none(3)),
        Annotation(instances=np.zeros((9, 12, 6), np.int32), objects=Objects.none(3)),
    ):
        placed = place_annotation(known, placement_of((2, 0, 1), (0,), (2, 1, 1)))
        assert placed.objects.boxes.shape == (0, 6)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_ids_of_any_integer_type_are_placed_and_the_annotation_is_left_as_it_was(dtype):
    known = annotation(dtype)
    for layer in (known.mask, known.instances):
        layer.flags.writeable = False
    placed = place_annotation(known, placement_of((1, 2, 0), (1, 2), (2, 2, 1)))
    expected = np.kron(turned(scene(), (1, 2, 0), (1, 2)), np.ones((2, 2, 1), dtype=np.int32))
    assert np.array_equal(placed.instances, expected)
    assert placed.instances.dtype == placed.mask.dtype == np.dtype(dtype)
    assert np.array_equal(known.instances, scene(dtype))


def test_what_is_left_is_numbered_without_gaps_in_its_old_order():
    left = np.array([[0, 4, 4], [9, 0, 2], [9, 9, 2]])
    objects = Objects.of(np.zeros((9, 4)), np.arange(11, 20))
    instances, renamed = renumbered(left, objects)
    assert np.array_equal(instances, [[0, 2, 2], [3, 0, 1], [3, 3, 1]])
    assert renamed.labels.tolist() == [12, 14, 19]
    assert renamed.boxes.tolist() == [[1, 2, 3, 3], [0, 1, 1, 3], [1, 0, 3, 2]]
    nothing, none = renumbered(np.zeros((3, 3), dtype=np.int32), objects)
    assert not nothing.any()
    assert none.boxes.shape == (0, 4)

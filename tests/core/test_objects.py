from __future__ import annotations

import numpy as np
import pytest
from skimage.measure import regionprops

from medexp.core.errors import DataError
from medexp.core.geometry import Placement
from medexp.core.objects import Objects
from medexp.core.types import Annotation


def scene(*shape: int) -> np.ndarray:
    """Some instances, numbered 1 to n, as rectangles that do not touch."""
    instances = np.zeros(shape, dtype=np.int32)
    instances[1:4, 2:3] = 1
    instances[5:7, 4:8] = 2
    instances[0:1, 0:1] = 3
    return instances


def test_boxes_of_instances_are_those_of_scikit_image():
    instances = scene(9, 10)
    objects = Objects.of_instances(instances, {1: 7, 2: 8, 3: 7})
    assert objects.boxes.tolist() == [list(region.bbox) for region in regionprops(instances)]
    assert objects.labels.tolist() == [7, 8, 7]
    assert objects.scores.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("labels", [{1: 1, 2: 1}, {1: 1, 2: 1, 3: 1, 4: 1}])
def test_instances_without_a_label_or_a_label_without_instance_are_refused(labels):
    with pytest.raises(DataError, match="instances need the ids"):
        Objects.of_instances(scene(9, 10), labels)


def test_no_instance_is_no_object():
    objects = Objects.of_instances(np.zeros((4, 5, 6), dtype=np.int32), {})
    assert (len(objects), objects.spatial_dims) == (0, 3)
    assert len(objects.moved(np.eye(3), np.zeros(3)).clipped((4, 5, 6))[0]) == 0


@pytest.mark.parametrize("permutation", [(0, 1), (1, 0)])
@pytest.mark.parametrize("flipped", [(), (0,), (0, 1)])
def test_boxes_follow_the_voxels_to_the_network_s_grid_and_back(permutation, flipped):
    instances = scene(9, 10)
    shape = tuple(instances.shape[axis] for axis in permutation)
    placement = Placement(instances.shape, permutation, flipped, tuple(2 * n for n in shape))
    objects = Objects.of_instances(instances, {1: 1, 2: 1, 3: 1})
    doubled = np.kron(placement.orient(instances), np.ones((2, 2), dtype=np.int32))
    moved = objects.moved(*placement.to_network())
    assert moved.boxes == pytest.approx(Objects.of_instances(doubled, {1: 1, 2: 1, 3: 1}).boxes)
    assert moved.moved(*placement.to_image()).boxes == pytest.approx(objects.boxes)


def test_a_turned_box_is_the_box_around_its_corners():
    objects = Objects.of(np.array([[0.0, 0.0, 2.0, 4.0]]), np.array([1]))
    quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
    assert objects.moved(quarter, np.zeros(2)).boxes.tolist() == [[-4.0, 0.0, 0.0, 2.0]]


def test_objects_stay_where_their_centre_is_inside_and_enough_is_seen():
    boxes = np.array([[-1.0, 0, 3, 2], [-3.0, 0, 2, 2], [1.5, 1.5, 1.5, 1.5], [9.0, 9, 12, 12]])
    objects = Objects.of(boxes, np.array([1, 2, 3, 4]))
    kept, inside = objects.clipped((8, 8))
    assert kept.labels.tolist() == [1, 3]
    assert inside.tolist() == [True, False, True, False]
    assert kept.boxes.tolist() == [[0, 0, 3, 2], [1.5, 1.5, 1.5, 1.5]]
    assert objects.clipped((8, 8), least_visible=0.8)[0].labels.tolist() == [3]


def test_rows_that_do_not_fit_each_other_are_refused():
    with pytest.raises(DataError, match="as many labels and scores as boxes, got 1, 2 and 1"):
        Objects.of(np.zeros((1, 4)), np.array([1, 2]))
    with pytest.raises(DataError, match="instances need objects"):
        Annotation(instances=scene(9, 10))

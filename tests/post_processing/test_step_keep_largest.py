from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label, regionprops

from medexp.core.errors import UsageError
from medexp.core.types import StructureClass
from medexp.post_processing._components import find_components
from medexp.post_processing.keep_largest import KeepLargest

REGIONS = (StructureClass("whole", 0, 1), StructureClass("core", 1, 1))


def largest(layer: np.ndarray, value: int, connectivity: str) -> np.ndarray:
    """The largest component of a value by scikit-image; of equal ones the one whose first voxel comes first."""
    numbers = label(layer == value, connectivity=1 if connectivity == "faces" else layer.ndim)
    regions = regionprops(numbers)
    if not regions:
        return numbers > 0
    return numbers == min(regions, key=lambda r: (-r.num_pixels, np.flatnonzero(numbers == r.label)[0])).label


@pytest.mark.parametrize("connectivity", ["faces", "corners"])
def test_keep_largest_agrees_with_scikit_image(predict, scattered, connectivity):
    expected = sum(value * largest(scattered[0], value, connectivity).astype(np.uint8) for value in (1, 3))
    result = KeepLargest(connectivity=connectivity)(predict(mask=scattered))
    assert np.array_equal(result.mask[0], expected)
    assert result.mask.dtype == scattered.dtype


def test_keep_largest_works_on_each_class_by_itself(predict):
    mask = np.array([[[1, 1, 0, 1], [0, 0, 0, 0], [3, 0, 3, 3]]], dtype=np.uint8)
    assert KeepLargest()(predict(mask=mask)).mask.tolist() == [[[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 3, 3]]]


def test_keep_largest_does_not_join_touching_classes(predict):
    mask = np.array([[[1, 3, 1, 1]]], dtype=np.uint8)
    assert KeepLargest()(predict(mask=mask)).mask.tolist() == [[[0, 3, 1, 1]]]


@pytest.mark.parametrize("dims", [2, 3])
def test_keep_largest_joins_over_corners_only_if_told(predict, dims):
    diagonal = np.zeros((1, *(4,) * dims), dtype=np.uint8)
    for i in range(3):
        diagonal[(0, *(i,) * dims)] = 1
    assert KeepLargest(connectivity="corners")(predict(mask=diagonal)).mask.sum() == 3
    assert KeepLargest(connectivity="faces")(predict(mask=diagonal)).mask.sum() == 1


def test_keep_largest_keeps_the_first_of_equal_components(predict):
    mask = np.array([[[0, 0, 1], [0, 0, 0], [1, 0, 0]]], dtype=np.uint8)
    assert KeepLargest()(predict(mask=mask)).mask.tolist() == [[[0, 0, 1], [0, 0, 0], [0, 0, 0]]]


def test_keep_largest_leaves_classes_that_are_not_named(predict):
    mask = np.array([[[1, 1, 0, 1], [0, 0, 0, 0], [3, 0, 3, 3]]], dtype=np.uint8)
    result = KeepLargest(classes=["spleen"])(predict(mask=mask))
    assert result.mask.tolist() == [[[1, 1, 0, 1], [0, 0, 0, 0], [0, 0, 3, 3]]]


def test_keep_largest_works_on_overlapping_regions_layer_by_layer(predict):
    mask = np.array([[[1, 1, 1, 0, 1]], [[1, 0, 1, 1, 1]]], dtype=np.uint8)
    whole = predict(mask=mask, classes=REGIONS, exclusive=False)
    assert KeepLargest()(whole).mask.tolist() == [[[1, 1, 1, 0, 0]], [[0, 0, 1, 1, 1]]]
    assert KeepLargest(classes=["core"])(whole).mask.tolist() == [[[1, 1, 1, 0, 1]], [[0, 0, 1, 1, 1]]]


def test_keep_largest_of_an_empty_mask_is_empty(predict):
    assert not KeepLargest()(predict(mask=np.zeros((1, 3, 3, 3), dtype=np.uint8))).mask.any()


def test_keep_largest_of_a_full_mask_is_full(predict):
    assert KeepLargest()(predict(mask=np.ones((1, 3, 3, 3), dtype=np.int64))).mask.all()


def test_keep_largest_twice_is_keep_largest_once(predict, scattered):
    once = KeepLargest()(predict(mask=scattered))
    assert np.array_equal(KeepLargest()(once).mask, once.mask)


def test_keep_largest_leaves_one_component_by_scipy(predict, scattered):
    result = KeepLargest(connectivity="faces")(predict(mask=scattered))
    assert [ndimage.label(result.mask[0] == value)[1] for value in (1, 3)] == [1, 1]


def test_keep_largest_takes_masks_in_any_memory_order(predict, scattered):
    moved = predict(mask=scattered).with_mask(np.asfortranarray(scattered))
    assert np.array_equal(KeepLargest()(moved).mask, KeepLargest()(predict(mask=scattered)).mask)


def test_keep_largest_refuses_a_prediction_without_mask(predict):
    with pytest.raises(
        UsageError, match="keep_largest takes a mask, and case case_7 has none; put argmax or threshold"
    ):
        KeepLargest()(predict(probabilities=np.zeros((3, 2, 2))))


def test_keep_largest_refuses_a_class_that_the_task_does_not_have(predict):
    message = r"keep_largest\.classes names 'splen', and the task has liver, spleen; did you mean spleen\?"
    with pytest.raises(UsageError, match=message):
        KeepLargest(classes=["splen"])(predict(mask=np.ones((1, 2, 2), dtype=np.uint8)))


@pytest.mark.parametrize("classes", ["liver", []])
def test_keep_largest_refuses_classes_that_are_no_list_of_names(classes):
    with pytest.raises(UsageError, match=r"keep_largest\.classes needs a list of names, or null for all classes, got"):
        KeepLargest(classes=classes)


def test_keep_largest_refuses_an_unknown_connectivity():
    with pytest.raises(UsageError, match=r"keep_largest\.connectivity needs faces or corners, got 'edges'"):
        KeepLargest(connectivity="edges")


def test_components_are_numbered_in_the_order_of_the_array_whatever_the_memory_order():
    layer = np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]], dtype=np.uint8)
    for stored in (layer, np.asfortranarray(layer)):
        assert find_components(stored, "faces").numbers.tolist() == [[0, 0, 1], [0, 0, 0], [2, 0, 0]]

from __future__ import annotations

import warnings

import numpy as np
import pytest
from monai.transforms import FillHoles as MonaiFillHoles
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold
from skimage.morphology import convex_hull_image

from medexp.core.errors import UsageError
from medexp.core.types import StructureClass
from medexp.post_processing._components import numbered
from medexp.post_processing.convex_hull import ConvexHull
from medexp.post_processing.fill_holes import FillHoles
from medexp.post_processing.hysteresis import Hysteresis
from medexp.post_processing.keep_largest import KeepLargest
from medexp.post_processing.remove_small import RemoveSmall

ONE = (StructureClass("liver", 0, 1),)
REGIONS = (StructureClass("whole", 0, 1), StructureClass("core", 1, 1))


def by_scipy(labels: np.ndarray, values: tuple[int, ...], connectivity: str) -> np.ndarray:
    """Each background voxel to the class around it that encloses the fewest voxels with it."""
    dims = labels.ndim
    structure = ndimage.generate_binary_structure(dims, 1 if connectivity == "faces" else dims)
    fewest = np.full(labels.shape, np.inf)
    expected = labels.copy()
    for value in values:
        own = labels == value
        enclosed = ndimage.binary_fill_holes(own, structure) & ~own
        numbers, count = ndimage.label(enclosed, structure)
        sizes = np.concatenate([[np.inf], ndimage.sum_labels(enclosed, numbers, range(1, count + 1))])[numbers]
        won = (labels == 0) & enclosed & (sizes < fewest)
        expected[won], fewest[won] = value, sizes[won]
    return expected


@pytest.mark.parametrize("connectivity", ["faces", "corners"])
@pytest.mark.parametrize("seed", range(8))
def test_fill_holes_agrees_with_scipy(predict, seed, connectivity):
    rng = np.random.default_rng(seed)
    shape = tuple(int(size) for size in rng.integers(8, 14, 2 + seed % 2))
    share = 0.55 if connectivity == "faces" else 0.25
    labels = rng.choice([0, 1, 3], size=shape, p=[share, (1 - share) / 2, (1 - share) / 2]).astype(np.uint8)
    result = FillHoles(connectivity=connectivity)(predict(mask=labels[None])).mask[0]
    assert np.array_equal(result, by_scipy(labels, (1, 3), connectivity))
    spleen = FillHoles(connectivity=connectivity, classes=["spleen"])(predict(mask=labels[None])).mask[0]
    assert np.array_equal(spleen, by_scipy(labels, (3,), connectivity))


@pytest.mark.parametrize(("connectivity", "hops", "share"), [("faces", 1, 0.75), ("corners", 3, 0.95)])
def test_fill_holes_of_one_class_agrees_with_monai(predict, connectivity, hops, share):
    mask = (np.random.default_rng(1).random((1, 12, 12, 12)) < share).astype(np.uint8)
    expected = np.asarray(MonaiFillHoles(connectivity=hops)(mask.copy()))
    result = FillHoles(connectivity=connectivity)(predict(mask=mask, classes=ONE)).mask
    assert np.array_equal(result, expected)
    assert not np.array_equal(result, mask)


def test_a_hole_in_a_nested_class_goes_to_the_innermost_and_the_inner_class_stays(predict):
    labels = np.zeros((1, 11, 11), dtype=np.uint8)
    labels[0, 1:10, 1:10] = 1
    labels[0, 3:8, 3:8] = 0
    labels[0, 4:7, 4:7] = 3
    labels[0, 5, 5] = 0
    result = FillHoles()(predict(mask=labels)).mask[0]
    assert result[5, 5] == 3
    assert result[3, 3] == 1
    assert (result == 3).sum() == 9
    # Between inner and outer class the hole touches both; only the outer one encloses it.
    touching = labels.copy()
    touching[0, 3:8, 3:5] = 1
    assert (FillHoles()(predict(mask=touching)).mask[0, 3:8, 3:8] == 0).sum() == 0


def test_holes_at_the_border_and_large_holes_stay(predict):
    mask = np.ones((1, 6, 9), dtype=np.uint8)
    mask[0, 0, 2] = mask[0, 2, 2] = 0
    mask[0, 2:4, 5:7] = 0
    given = predict(mask=mask, classes=ONE, spacing=(2.0, 1.0))
    assert (FillHoles()(given).mask == 0).sum() == 1
    assert (FillHoles(max_volume_mm3=2.0)(given).mask == 0).sum() == 5
    assert (FillHoles(max_volume_mm3=1.9)(given).mask == 0).sum() == 6


def test_holes_of_regions_are_filled_layer_by_layer(predict):
    mask = np.ones((2, 3, 3), dtype=np.uint8)
    mask[:, 1, 1] = 0
    given = predict(mask=mask, classes=REGIONS, exclusive=False)
    assert FillHoles(classes=["core"])(given).mask[:, 1, 1].tolist() == [0, 1]


def test_the_highest_value_of_a_type_is_filled_too(predict):
    mask = np.full((1, 3, 3), 255, dtype=np.uint8)
    mask[0, 1, 1] = 0
    assert FillHoles()(predict(mask=mask, classes=(StructureClass("last", 0, 255),))).mask.min() == 255


@pytest.mark.parametrize("step", [FillHoles(), ConvexHull(), ConvexHull(per_component=True)])
@pytest.mark.parametrize("fill", [0, 1])
def test_empty_and_full_masks_stay(predict, step, fill):
    mask = np.full((1, 4, 5, 6), fill, dtype=np.uint8)
    assert np.array_equal(step(predict(mask=mask, classes=ONE)).mask, mask)


@pytest.mark.parametrize("seed", range(6))
def test_convex_hull_agrees_with_scikit_image(predict, seed):
    rng = np.random.default_rng(seed)
    shape = tuple(int(size) for size in rng.integers(7, 13, 2 + seed % 2))
    mask = rng.random(shape) < 0.02
    mask[tuple(rng.integers(0, shape, (6, len(shape))).T)] = True
    expected = convex_hull_image(mask)
    result = ConvexHull()(predict(mask=mask[None].astype(np.uint8), classes=ONE)).mask[0]
    assert np.array_equal(result, expected)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_hull_of_a_voxel_of_a_line_and_of_a_plane_is_itself(predict, dims):
    for ends in ((1, 1, 1), (1, 1, 4), (1, 4, 4))[: dims + 1]:
        mask = np.zeros((1, *(6,) * dims), dtype=np.uint8)
        mask[(0, *[slice(1, end + 1) for end in ends[-dims:]])] = 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(ConvexHull()(predict(mask=mask, classes=ONE)).mask, mask)


def test_hulls_take_background_alone_and_may_be_of_each_component(predict):
    mask = np.array([[[1, 0, 1, 0, 3, 0, 1]]], dtype=np.uint8)
    assert ConvexHull()(predict(mask=mask)).mask.tolist() == [[[1, 1, 1, 1, 3, 1, 1]]]
    assert np.array_equal(ConvexHull(per_component=True)(predict(mask=mask)).mask, mask)
    corner = np.zeros((1, 5, 9), dtype=np.uint8)
    corner[0, :, 0] = corner[0, 0, :5] = corner[0, 0, 6:] = 1
    assert np.array_equal(
        ConvexHull(per_component=True)(predict(mask=corner, classes=ONE)).mask[0, :, :5],
        convex_hull_image(corner[0, :, :5]),
    )


@pytest.mark.parametrize(("connectivity", "hops"), [("faces", 1), ("corners", None)])
@pytest.mark.parametrize("shape", [(20, 20), (9, 9, 9)])
def test_hysteresis_agrees_with_scikit_image(predict, shape, connectivity, hops):
    soft = ndimage.gaussian_filter(np.random.default_rng(3).random(shape), 0.7)
    low, high = np.quantile(soft, [0.7, 0.97])
    step = Hysteresis(low=float(low), high=float(high), connectivity=connectivity)
    result = step(predict(probabilities=soft[None], classes=ONE, exclusive=False)).mask[0]
    structure = ndimage.generate_binary_structure(len(shape), hops or len(shape))
    numbers, _ = ndimage.label(soft >= low, structure)
    expected = np.isin(numbers, np.unique(numbers[soft >= high]))
    assert np.array_equal(result, expected)
    if connectivity == "faces":
        # Its thresholds are exclusive, and no voxel lies on one but those of the quantiles.
        close = apply_hysteresis_threshold(soft, low - 1e-12, high - 1e-12)
        assert np.array_equal(result, close)
    assert result.sum() < (soft >= low).sum()


def test_hysteresis_refuses_thresholds_that_cross_and_several_exclusive_classes(predict):
    with pytest.raises(UsageError, match=r"hysteresis\.high needs at least hysteresis\.low=0\.6, got 0\.5"):
        Hysteresis(low=0.6, high=0.5)
    with pytest.raises(UsageError, match="hysteresis in case case_7 needs overlapping regions or a single class"):
        Hysteresis()(predict(probabilities=np.full((3, 4, 4), 1 / 3)))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_keep_largest_keeps_as_many_as_told(predict, count):
    mask = np.array([[[1, 1, 1, 0, 1, 0, 1, 1, 0, 3, 0, 3, 3]]], dtype=np.uint8)
    expected = {1: [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 3, 3], 2: [1, 1, 1, 0, 0, 0, 1, 1, 0, 3, 0, 3, 3]}
    result = KeepLargest(count=count)(predict(mask=mask)).mask[0, 0].tolist()
    assert result == expected.get(count, mask[0, 0].tolist())


def test_joint_components_hold_several_classes(predict):
    mask = np.array([[[1, 3, 0, 1, 1, 0, 3]]], dtype=np.uint8)
    assert KeepLargest(joint=True)(predict(mask=mask)).mask.tolist() == [[[1, 3, 0, 0, 0, 0, 0]]]
    assert RemoveSmall(min_volume_mm3=2.0, joint=True)(predict(mask=mask)).mask.tolist() == [[[1, 3, 0, 1, 1, 0, 0]]]
    liver = KeepLargest(joint=True, classes=["liver"])(predict(mask=mask)).mask.tolist()
    assert liver == [[[0, 3, 0, 1, 1, 0, 3]]]


def test_joint_components_join_over_layers(predict):
    mask = np.array([[[1, 1, 0, 0, 1, 0]], [[0, 1, 1, 0, 0, 1]]], dtype=np.uint8)
    result = KeepLargest(joint=True)(predict(mask=mask, classes=REGIONS, exclusive=False))
    assert result.mask.tolist() == [[[1, 1, 0, 0, 0, 0]], [[0, 1, 1, 0, 0, 0]]]


def test_flags_of_a_single_row_are_numbered_apart():
    row = np.array([[1, 0, 1, 0, 0, 0, 1]], dtype=bool)
    assert numbered(row, "corners").tolist() == [[1, 0, 2, 0, 0, 0, 3]]

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from medexp.core.errors import UsageError
from medexp.core.types import StructureClass
from medexp.post_processing.closing import Closing
from medexp.post_processing.dilate import Dilate
from medexp.post_processing.erode import Erode
from medexp.post_processing.grow import Grow
from medexp.post_processing.median import Median
from medexp.post_processing.opening import Opening
from medexp.post_processing.remove_small import RemoveSmall
from medexp.post_processing.smooth import Smooth

ONE = (StructureClass("liver", 0, 1),)
REGIONS = (StructureClass("whole", 0, 1), StructureClass("core", 1, 1))
# Voxels along each axis, spacing in mm, and a radius that reaches over several voxels along one axis at least.
GRIDS = [((17, 14), (1.0, 1.0), 2.0), ((15, 18), (0.7, 1.9), 2.1), ((9, 11, 10), (2.5, 0.8, 1.0), 2.5)]


def ball(radius_mm: float, spacing: tuple[float, ...]) -> np.ndarray:
    """Footprint of all voxels within a radius, by its definition."""
    half = [int(radius_mm / step) + 1 for step in spacing]
    axes = np.meshgrid(*[np.arange(-n, n + 1) * step for n, step in zip(half, spacing, strict=True)], indexing="ij")
    return sum(axis**2 for axis in axes) <= radius_mm**2 + 1e-6


def blob(shape: tuple[int, ...], seed: int = 0, share: float = 0.35) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2)
    return noise > np.quantile(noise, 1 - share)


def layer(mask: np.ndarray) -> np.ndarray:
    return mask[None].astype(np.uint8)


@pytest.mark.parametrize(("shape", "spacing", "radius_mm"), GRIDS)
@pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
def test_morphology_by_radius_agrees_with_scipy(predict, shape, spacing, radius_mm, share):
    mask, footprint = blob(shape, share=share), ball(radius_mm, spacing)
    given = predict(mask=layer(mask), classes=ONE, spacing=spacing)
    dilated = ndimage.binary_dilation(mask, footprint)
    eroded = ndimage.binary_erosion(mask, footprint, border_value=1)
    expected = {
        Dilate: dilated,
        Erode: eroded,
        Opening: ndimage.binary_dilation(eroded, footprint),
        Closing: ndimage.binary_erosion(dilated, footprint, border_value=1),
    }
    for step, wanted in expected.items():
        result = step(radius_mm=radius_mm)(given).mask
        assert np.array_equal(result[0], wanted), step.__name__
        assert result.dtype == np.uint8


@pytest.mark.parametrize("window", [3, (5, 1), (3, 1, 5)])
def test_a_window_is_pooling_of_masks_and_of_probabilities(predict, window):
    dims = 2 if isinstance(window, int) else len(window)
    sides = (window,) * dims if isinstance(window, int) else window
    shape = (11, 9, 8)[:dims]
    soft = np.random.default_rng(1).random((2, *shape)).astype(np.float32)
    pool = torch.nn.functional.max_pool2d if dims == 2 else torch.nn.functional.max_pool3d
    padding = tuple(side // 2 for side in sides)

    def pooled(array: np.ndarray) -> np.ndarray:
        return pool(torch.from_numpy(array)[None], sides, stride=1, padding=padding)[0].numpy()

    regions = predict(probabilities=soft, classes=REGIONS, exclusive=False)
    assert np.array_equal(Dilate(window=window)(regions).probabilities, pooled(soft))
    assert np.array_equal(Erode(window=window)(regions).probabilities, -pooled(-soft))
    assert np.array_equal(Closing(window=window)(regions).probabilities, -pooled(-pooled(soft)))
    hard = (soft > 0.8).astype(np.uint8)
    marked = predict(mask=hard, classes=REGIONS, exclusive=False)
    assert np.array_equal(Dilate(window=window)(marked).mask, pooled(hard.astype(np.float32)))
    hard = (soft > 0.2).astype(np.uint8)
    marked = predict(mask=hard, classes=REGIONS, exclusive=False)
    assert np.array_equal(Erode(window=window)(marked).mask, -pooled(-hard.astype(np.float32)))


@pytest.mark.parametrize(("shape", "spacing", "radius_mm"), GRIDS)
def test_probabilities_by_radius_agree_with_scipys_grey_morphology(predict, shape, spacing, radius_mm):
    soft, footprint = np.random.default_rng(2).random((2, *shape)), ball(radius_mm, spacing)
    regions = predict(probabilities=soft, classes=REGIONS, exclusive=False, spacing=spacing)
    highest = [ndimage.maximum_filter(channel, footprint=footprint, mode="constant", cval=-1) for channel in soft]
    lowest = [ndimage.minimum_filter(channel, footprint=footprint, mode="constant", cval=2) for channel in soft]
    assert np.array_equal(Dilate(radius_mm=radius_mm)(regions).probabilities, highest)
    assert np.array_equal(Erode(radius_mm=radius_mm)(regions).probabilities, lowest)


@pytest.mark.parametrize(("shape", "spacing", "radius_mm"), GRIDS)
@pytest.mark.parametrize("by_radius", [True, False])
def test_median_agrees_with_scipy(predict, shape, spacing, radius_mm, by_radius):
    knobs = {"radius_mm": radius_mm} if by_radius else {"window": 3}
    footprint = ball(radius_mm, spacing) if by_radius else np.ones((3,) * len(shape), dtype=bool)
    soft = np.random.default_rng(3).random((2, *shape))
    expected = np.array([ndimage.median_filter(channel, footprint=footprint, mode="nearest") for channel in soft])
    regions = predict(probabilities=soft, classes=REGIONS, exclusive=False, spacing=spacing)
    assert np.array_equal(Median(**knobs)(regions).probabilities, expected)
    mask = blob(shape, seed=4) | (np.random.default_rng(5).random(shape) < 0.1)
    expected_mask = ndimage.median_filter(mask, footprint=footprint, mode="nearest")
    result = Median(**knobs)(predict(mask=layer(mask), classes=ONE, spacing=spacing))
    assert np.array_equal(result.mask[0], expected_mask)


def test_median_of_classes_gives_each_voxel_the_class_of_more_than_half(predict):
    row = np.array([[[1, 1, 3, 1, 3, 3, 0, 3, 0, 0, 0]]], dtype=np.uint8)
    assert Median(window=(1, 3))(predict(mask=row)).mask.tolist() == [[[1, 1, 1, 3, 3, 3, 3, 0, 0, 0, 0]]]
    assert Median(window=(1, 3), classes=["spleen"])(predict(mask=row)).mask[0, 0, :2].tolist() == [1, 1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_smooth_agrees_with_scipy_in_mm(predict, dtype):
    soft = np.random.default_rng(6).random((2, 8, 9, 10)).astype(dtype)
    regions = predict(probabilities=soft, classes=REGIONS, exclusive=False, spacing=(3.0, 1.0, 0.5))
    result = Smooth(sigma_mm=1.5)(regions).probabilities
    expected = [ndimage.gaussian_filter(channel, (0.5, 1.5, 3.0), mode="nearest") for channel in soft]
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert result.dtype == dtype


@pytest.mark.parametrize("step", [Dilate(radius_mm=1.5), Erode(window=3), Median(window=3), Smooth(sigma_mm=1.0)])
def test_exclusive_probabilities_still_sum_to_one(predict, step):
    soft = np.random.default_rng(7).dirichlet([1, 1, 1], size=(7, 8)).transpose(2, 0, 1)
    for classes in (None, ["spleen"]):
        step.classes = classes
        result = step(predict(probabilities=soft)).probabilities
        np.testing.assert_allclose(result.sum(axis=0), 1)
        assert result.min() >= 0


def test_smoothing_all_exclusive_classes_smooths_the_background_too(predict):
    soft = np.random.default_rng(8).dirichlet([1, 1, 1], size=(7, 8)).transpose(2, 0, 1)
    result = Smooth(sigma_mm=0.8)(predict(probabilities=soft)).probabilities
    np.testing.assert_allclose(result, [ndimage.gaussian_filter(c, 0.8, mode="nearest") for c in soft])


def test_a_class_grows_into_background_alone_and_the_nearer_class_wins(predict):
    row = np.array([[[1, 0, 0, 0, 0, 3, 1, 0, 0, 0, 3]]], dtype=np.uint8)
    assert Dilate(radius_mm=2.0)(predict(mask=row)).mask.tolist() == [[[1, 1, 1, 3, 3, 3, 1, 1, 1, 3, 3]]]
    assert Dilate(window=5)(predict(mask=row)).mask.tolist() == [[[1, 1, 1, 3, 3, 3, 1, 1, 1, 3, 3]]]
    only = Dilate(radius_mm=2.0, classes=["spleen"])(predict(mask=row))
    assert only.mask.tolist() == [[[1, 0, 0, 3, 3, 3, 1, 3, 3, 3, 3]]]


@pytest.mark.parametrize("seed", range(4))
def test_disputed_voxels_go_to_the_class_with_the_nearest_voxel(predict, seed):
    spacing = (1.0, 2.5)
    labels = np.random.default_rng(seed).choice([0, 1, 3], size=(14, 12), p=[0.9, 0.05, 0.05]).astype(np.uint8)
    distance = {
        value: ndimage.distance_transform_edt(labels != value, sampling=spacing)
        if (labels == value).any()
        else np.full(labels.shape, np.inf)
        for value in (1, 3)
    }
    nearest = np.where(distance[1] <= distance[3], 1, 3)
    reached = np.minimum(distance[1], distance[3]) <= 3.0
    expected = np.where((labels == 0) & reached, nearest, labels)
    assert np.array_equal(Dilate(radius_mm=3.0)(predict(mask=labels[None], spacing=spacing)).mask[0], expected)


@pytest.mark.parametrize(("shape", "spacing", "radius_mm"), GRIDS)
def test_grow_is_dilation_of_what_removing_the_small_leaves(predict, shape, spacing, radius_mm):
    given = predict(mask=layer(blob(shape, seed=9, share=0.15)), classes=ONE, spacing=spacing)
    volume = 6 * given.geometry.voxel_volume_mm3
    kept = RemoveSmall(min_volume_mm3=volume)(given)
    expected = Dilate(radius_mm=radius_mm)(kept).mask | given.mask
    result = Grow(min_volume_mm3=volume, radius_mm=radius_mm)(given).mask
    assert np.array_equal(result, expected)
    assert not np.array_equal(result, Dilate(radius_mm=radius_mm)(given).mask)


@pytest.mark.parametrize("fill", [0, 1])
@pytest.mark.parametrize("step", [Dilate, Erode, Opening, Closing, Median])
def test_empty_and_full_masks_stay(predict, step, fill):
    mask = np.full((1, 4, 5, 6), fill, dtype=np.uint8)
    for knobs in ({"radius_mm": 2.0}, {"window": 3}):
        assert np.array_equal(step(**knobs)(predict(mask=mask, classes=ONE)).mask, mask)


def test_a_radius_below_the_spacing_changes_nothing(predict):
    given = predict(mask=layer(blob((9, 9))), classes=ONE, spacing=(2.0, 2.0))
    for step in (Dilate, Erode, Opening, Closing, Median):
        assert np.array_equal(step(radius_mm=1.9)(given).mask, given.mask)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({}, "dilate needs one of dilate.radius_mm and dilate.window"),
        ({"radius_mm": 1.0, "window": 3}, "dilate needs one of dilate.radius_mm and dilate.window"),
        ({"radius_mm": 0.0}, r"dilate\.radius_mm needs a finite value above 0, got 0\.0"),
        ({"window": 4}, r"dilate\.window needs an odd number of voxels"),
        ({"window": [3, 2]}, r"dilate\.window needs an odd number of voxels"),
    ],
)
def test_a_reach_that_means_nothing_is_refused(knobs, message):
    with pytest.raises(UsageError, match=message):
        Dilate(**knobs)


def test_a_window_for_other_axes_is_refused_with_the_case(predict):
    with pytest.raises(UsageError, match=r"dilate\.window has 3 sides, and case case_7 has 2 axes"):
        Dilate(window=[3, 3, 1])(predict(mask=layer(blob((5, 5)))))

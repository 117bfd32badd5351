from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from skimage.exposure import rescale_intensity

from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Case, Image
from medexp.data._intensities import foreground_intensities
from medexp.data.normalisation.base import Normalisation, Scheme
from medexp.data.normalisation.by_channel import ByChannel
from medexp.data.normalisation.ct import CT, ClipAndScale, Scale
from medexp.data.normalisation.percentile import Percentile
from medexp.data.normalisation.window import Window
from medexp.data.normalisation.zscore import ZScore

SCALE = Scale(lower=-50.0, upper=300.0, mean=100.0, std=40.0)


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(3.0, 2.0, size=shape).astype(np.float32)


def test_zscore_agrees_with_scipy_channel_by_channel():
    pixels = random_pixels(2, 5, 6, 7)
    before = pixels.copy()
    normalised = ZScore()(pixels)
    for channel, expected in zip(normalised, pixels, strict=True):
        np.testing.assert_allclose(channel, stats.zscore(expected.astype(np.float64), axis=None), atol=1e-5)
    assert normalised.dtype == np.float32
    assert np.array_equal(pixels, before)


def test_zscore_of_nonzero_voxels_leaves_the_others_at_zero():
    pixels = random_pixels(1, 8, 8)
    pixels[0, :3] = 0
    normalised = ZScore(nonzero=True)(pixels)
    assert (normalised[0, :3] == 0).all()
    np.testing.assert_allclose(normalised[0, 3:], stats.zscore(pixels[0, 3:].astype(np.float64), axis=None), atol=1e-5)


@pytest.mark.parametrize("nonzero", [False, True])
@pytest.mark.parametrize("value", [0.0, 1000.25])
def test_zscore_of_a_constant_channel_is_zero(value, nonzero):
    assert (ZScore(nonzero=nonzero)(np.full((1, 4, 4), value, dtype=np.float32)) == 0).all()


def test_zscore_of_large_values_keeps_its_precision():
    pixels = random_pixels(1, 32, 32) + np.float32(30_000)
    expected = stats.zscore(pixels[0].astype(np.float64), axis=None)
    np.testing.assert_allclose(ZScore()(pixels)[0], expected, atol=1e-4)


def test_window_maps_its_limits_to_zero_and_one_and_clips():
    pixels = np.array([[[-2000.0, -100.0, 75.0, 250.0, 3000.0]]], dtype=np.float32)
    assert Window(lower=-100.0, upper=250.0)(pixels).tolist() == [[[0.0, 0.0, 0.5, 1.0, 1.0]]]


def test_an_empty_window_is_refused():
    with pytest.raises(UsageError, match=r"lower < upper, got lower=1\.0, upper=1\.0"):
        Window(lower=1.0, upper=1.0)


def unread() -> tuple[np.ndarray, ...]:
    raise AssertionError("the training cases were read")


@pytest.mark.parametrize(("lower", "upper"), [(0.5, 99.5), (0.0, 100.0), (10.0, 60.0)])
def test_percentiles_map_as_scikit_image_rescales(lower, upper):
    pixels = random_pixels(2, 9, 8, 7)
    before = pixels.copy()
    scaled = Percentile(lower=lower, upper=upper)(pixels)
    for ours, channel in zip(scaled, pixels.astype(np.float64), strict=True):
        window = tuple(np.percentile(channel, [lower, upper]))
        np.testing.assert_allclose(ours, rescale_intensity(channel, in_range=window, out_range=(0, 1)), atol=1e-6)
    assert scaled.dtype == np.float32
    assert np.array_equal(pixels, before)


def test_percentiles_of_nonzero_voxels_leave_the_others_at_zero():
    pixels = random_pixels(1, 8, 8) + 10
    pixels[0, :3] = 0
    inside = pixels[0, 3:].astype(np.float64)
    scaled = Percentile(lower=5.0, upper=95.0, nonzero=True)(pixels)
    assert (scaled[0, :3] == 0).all()
    window = tuple(np.percentile(inside, [5, 95]))
    np.testing.assert_allclose(scaled[0, 3:], rescale_intensity(inside, in_range=window, out_range=(0, 1)), atol=1e-6)


@pytest.mark.parametrize("nonzero", [False, True])
@pytest.mark.parametrize("value", [0.0, -3.5])
def test_percentiles_of_a_constant_channel_are_zero(value, nonzero):
    pixels = np.full((1, 4, 4), value, dtype=np.float32)
    assert (Percentile(lower=0.5, upper=99.5, nonzero=nonzero)(pixels) == 0).all()


@pytest.mark.parametrize(("lower", "upper"), [(-1.0, 50.0), (50.0, 50.0), (60.0, 50.0), (0.0, 101.0)])
def test_percentiles_out_of_range_or_order_are_refused(lower, upper):
    with pytest.raises(UsageError, match="0 <= lower < upper <= 100"):
        Percentile(lower=lower, upper=upper)
    with pytest.raises(UsageError, match="0 <= lower_percentile < upper_percentile <= 100"):
        CT(lower_percentile=lower, upper_percentile=upper)


def test_ct_clips_at_percentiles_of_the_foreground_and_scales_by_its_mean_and_sd_in_each_channel():
    random = np.random.default_rng(0)
    foreground = (random.normal(60, 30, 4000), random.normal(900, 200, 4000))
    normalise = CT().fit(channels=("CT", "CT of bone"), foreground=lambda: foreground)
    pixels = random.normal(100, 400, size=(2, 6, 7, 5)).astype(np.float32)
    for ours, channel, values in zip(normalise(pixels), pixels.astype(np.float64), foreground, strict=True):
        clipped = np.clip(channel, *np.percentile(values, [0.5, 99.5]))
        np.testing.assert_allclose(ours, (clipped - values.mean()) / values.std(), atol=1e-4)
    narrow = CT(lower_percentile=20.0, upper_percentile=80.0).fit(channels=("CT",), foreground=lambda: foreground[:1])
    assert narrow.scales[0].lower == pytest.approx(np.percentile(foreground[0], 20), rel=1e-5)
    assert narrow.scales[0].upper == pytest.approx(np.percentile(foreground[0], 80), rel=1e-5)


def test_numbers_of_ct_that_are_given_are_taken_and_with_all_no_case_is_read():
    given = {"lower": -50.0, "upper": 300.0, "mean": 100.0, "std": 40.0}
    assert CT(**given).fit(channels=("a", "b"), foreground=unread).scales == (SCALE, SCALE)
    for name in given:
        others = {key: value for key, value in given.items() if key != name}
        (scale,) = CT(**others).fit(channels=("a",), foreground=lambda: (np.arange(101.0),)).scales
        found = {"lower": 0.5, "upper": 99.5, "mean": 50.0, "std": np.arange(101.0).std()}
        assert getattr(scale, name) == pytest.approx(found[name], rel=1e-5)
        assert {key: getattr(scale, key) for key in others} == others


def test_the_order_of_the_training_cases_does_not_change_the_numbers_of_ct():
    values = np.random.default_rng(0).normal(40, 300, size=100_000).astype(np.float32)
    numbers = {str(CT().fit(channels=("CT",), foreground=lambda v=v: (v,)).knobs()) for v in (values, values[::-1])}
    assert len(numbers) == 1


def test_ct_without_foreground_or_with_a_constant_one_is_told():
    with pytest.raises(DataError, match="needs annotated voxels in the training cases, got none; set lower, upper"):
        CT().fit(channels=("CT",), foreground=lambda: (np.zeros(0),))
    with pytest.raises(UsageError, match=r"lower < upper and std > 0, got lower=5\.0, upper=5\.0, std=0\.0"):
        CT().fit(channels=("CT",), foreground=lambda: (np.full(9, 5.0),))
    with pytest.raises(UsageError, match="lower < upper"):
        CT(lower=1.0, upper=0.0, mean=0.0, std=1.0).fit(channels=("CT",), foreground=unread)


def test_each_number_of_a_scale_is_told_apart():
    scales = [
        SCALE,
        Scale(lower=-51.0, upper=300.0, mean=100.0, std=40.0),
        Scale(lower=-50.0, upper=301.0, mean=100.0, std=40.0),
        Scale(lower=-50.0, upper=300.0, mean=101.0, std=40.0),
        Scale(lower=-50.0, upper=300.0, mean=100.0, std=41.0),
    ]
    assert len({str(ClipAndScale([scale]).knobs()) for scale in scales}) == len(scales)


def by_channel() -> ByChannel:
    return ByChannel(of_channel={"CT": CT(), "PET": Window(lower=0.0, upper=10.0)}, otherwise=ZScore())


def test_each_channel_is_normalised_by_its_name():
    foreground = (np.arange(10.0), np.arange(101.0), np.arange(10.0), np.arange(10.0))
    normalise = by_channel().fit(channels=("T1", "ct", "Pet", "CT angiography"), foreground=lambda: foreground)
    pixels = random_pixels(4, 6, 5)
    expected = [
        ZScore()(pixels[:1]),
        CT().fit(channels=("CT",), foreground=lambda: (np.arange(101.0),))(pixels[1:2]),
        Window(lower=0.0, upper=10.0)(pixels[2:3]),
        ZScore()(pixels[3:]),
    ]
    assert np.array_equal(normalise(pixels), np.concatenate(expected))


def test_the_training_cases_are_read_only_where_a_channel_asks_for_them():
    assert by_channel().fit(channels=("T1", "PET"), foreground=unread)(random_pixels(2, 4, 4)).shape == (2, 4, 4)
    with pytest.raises(AssertionError, match="were read"):
        by_channel().fit(channels=("T1", "CT"), foreground=unread)


def test_channels_are_part_of_what_distinguishes_two_normalisations():
    fitted = [by_channel().fit(channels=names, foreground=unread) for names in (("T1", "PET"), ("PET", "T1"), ("T1",))]
    assert len({str(normalisation.knobs()) for normalisation in fitted}) == 3


def test_what_must_be_fitted_is_no_normalisation_yet():
    for scheme in (CT(), by_channel()):
        assert isinstance(scheme, Scheme)
        assert not isinstance(scheme, Normalisation)
    for normalisation in (
        ZScore(),
        Window(lower=0.0, upper=1.0),
        Percentile(lower=0.0, upper=1.0),
        ClipAndScale([SCALE]),
    ):
        assert isinstance(normalisation, Normalisation)
        assert not isinstance(normalisation, Scheme)


def image_of(pixels: np.ndarray, annotation: Annotation | None) -> Image:
    geometry = Geometry.from_spacing(pixels.shape[1:], (1.0,) * (pixels.ndim - 1))
    return Image(Case("a", "a", (Path("a.nii"),)), pixels, annotation, geometry)


def test_intensities_are_those_of_annotated_voxels():
    pixels = random_pixels(2, 9, 8)
    layer = np.random.default_rng(1).integers(-1, 3, size=(9, 8))
    boxes = Objects.of(np.zeros((2, 4)), np.ones(2))
    for annotation in (Annotation(mask=layer), Annotation(instances=layer, objects=boxes)):
        found = foreground_intensities(image_of(pixels, annotation))
        assert np.array_equal(found, pixels[:, layer > 0])
    for annotation in (None, Annotation(), Annotation(objects=boxes)):
        assert np.array_equal(foreground_intensities(image_of(pixels, annotation)), pixels.reshape(2, -1))
    empty = Annotation(mask=np.zeros((9, 8), dtype=np.int16))
    assert foreground_intensities(image_of(pixels, empty)).shape == (2, 0)


def test_intensities_of_a_large_foreground_are_a_sample_of_it_that_is_the_same_each_time():
    pixels = random_pixels(2, 300, 200)
    mask = np.ones((300, 200), dtype=np.uint8)
    mask[:100] = 0
    image = image_of(pixels, Annotation(mask=mask))
    found = foreground_intensities(image)
    assert found.shape == (2, 10_000)
    assert np.array_equal(found, foreground_intensities(image))
    voxels = set(zip(*pixels[:, 100:].reshape(2, -1).tolist(), strict=True))
    assert set(zip(*found.tolist(), strict=True)) <= voxels
    assert len(np.unique(found[0])) > 9_900
    assert found.mean() == pytest.approx(pixels[:, 100:].mean(), abs=0.1)

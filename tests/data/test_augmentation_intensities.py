"""Changes of intensities against their formulas, scipy, scikit-image and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage, stats
from skimage.exposure import adjust_gamma

from medexp.core.types import Annotation
from medexp.data.augmentation import Augmentation, Drawn, Intensities, cut_patch

SHAPES = [(17, 20), (12, 9, 14)]


def image(*shape: int, n_channels: int = 2) -> np.ndarray:
    random = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(random.normal(size=(n_channels, *shape)), (0, *[1.0] * len(shape)))
    return (smooth * [[[1.0]], [[3.0]]] if len(shape) == 2 and n_channels == 2 else smooth).astype(np.float32)


def changed(pixels: np.ndarray, *each: Intensities, **change) -> np.ndarray:
    """The whole image with one change for all channels, or one for each."""
    shape = pixels.shape[1:]
    drawn = Drawn(intensities=each or (Intensities(**change),))
    center = tuple((n - 1) / 2 for n in shape)
    patch, _ = cut_patch(
        pixels, Annotation(), center=center, patch_size=shape, drawn=drawn, spacing_mm=(1.0,) * len(shape)
    )
    return patch.numpy()


def per_channel(function, pixels: np.ndarray) -> np.ndarray:
    return np.stack([function(channel) for channel in pixels])


@pytest.mark.parametrize("shape", SHAPES)
def test_brightness_scales_and_shifts(shape):
    pixels = image(*shape)
    found = changed(pixels, brightness_factor=1.2, brightness_shift=0.3)
    np.testing.assert_allclose(found, pixels * 1.2 + 0.3, atol=1e-6)


@pytest.mark.parametrize("factor", [0.75, 1.25])
def test_contrast_moves_intensities_from_their_mean_within_their_range(factor):
    pixels = image(17, 20)
    axes = {"axis": (1, 2), "keepdims": True}
    mean, low, high = pixels.mean(**axes), pixels.min(**axes), pixels.max(**axes)
    found = changed(pixels, contrast=factor)
    np.testing.assert_allclose(found, np.clip(mean + factor * (pixels - mean), low, high), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sigmas", [(0.5, 0.5, 0.5), (1.0, 1.0, 1.0), (0.6, 1.7, 0.9)])
def test_blur_is_scipys_gaussian_filter(shape, sigmas):
    pixels = image(*shape)
    sigmas = sigmas[: len(shape)]
    expected = per_channel(
        lambda channel: ndimage.gaussian_filter(channel, sigmas, mode="mirror", truncate=3.0), pixels
    )
    np.testing.assert_allclose(changed(pixels, blur_sigma_voxels=sigmas), expected, atol=1e-5)


def test_blur_wider_than_the_image_stays_an_average():
    pixels = np.zeros((1, 1, 4), dtype=np.float32)
    pixels[0, 0, 1] = 1.0
    found = changed(pixels, blur_sigma_voxels=(2.0, 2.0))
    assert found.min() >= 0
    assert found.max() < 0.5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("factor", [0.5, 0.77, 0.95, 0.01])
def test_low_resolution_is_torchs_nearest_and_linear_interpolation(shape, factor):
    pixels = image(*shape)
    fewer = [max(1, round(n * factor)) for n in shape]
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    small = F.interpolate(torch.from_numpy(pixels)[None], fewer, mode="nearest-exact")
    expected = F.interpolate(small, shape, mode=mode, align_corners=False)[0]
    np.testing.assert_allclose(changed(pixels, low_resolution=factor), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("exponent", [0.7, 1.5])
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_gamma_is_skimages_curve_with_the_mean_and_spread_of_before(exponent, inverted, shape):
    def bent(channel: np.ndarray) -> np.ndarray:
        given = -channel if inverted else channel
        curve = adjust_gamma((given - given.min()) / (given.max() - given.min()), exponent)
        kept = (curve - curve.mean()) / curve.std() * given.std() + given.mean()
        return -kept if inverted else kept

    pixels = image(*shape)
    found = changed(pixels, **{"gamma_inverted" if inverted else "gamma": exponent})
    np.testing.assert_allclose(found, per_channel(bent, pixels), atol=2e-5)


def test_gamma_above_one_darkens_most_and_its_inverse_brightens_most():
    ramp = np.linspace(0, 1, 400, dtype=np.float32).reshape(1, 20, 20)
    # Against a straight line the curve sags, the inverted one bulges, before mean and spread are restored.
    for name, sign in (("gamma", 1), ("gamma_inverted", -1)):
        second = np.diff(changed(ramp, **{name: 1.5}).ravel(), 2)
        assert (np.sign(second[np.abs(second) > 1e-6]) == sign).mean() > 0.95


def test_noise_is_white_gaussian_and_of_the_given_spread():
    pixels = image(60, 70)
    noise = changed(pixels, noise_std=0.5, noise_seed=7) - pixels
    assert noise.std() == pytest.approx(0.5, rel=0.03)
    assert stats.kstest(noise.ravel() / 0.5, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(noise[0, :, 1:].ravel(), noise[0, :, :-1].ravel())[0, 1]) < 0.06
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.06
    again = changed(pixels, noise_std=0.5, noise_seed=7) - pixels
    assert np.array_equal(noise, again)
    assert not np.array_equal(noise, changed(pixels, noise_std=0.5, noise_seed=8) - pixels)


def test_each_channel_takes_its_own_change():
    pixels = image(17, 20)
    found = changed(pixels, Intensities(brightness_shift=1.0), Intensities(contrast=0.8))
    assert np.array_equal(found[0], pixels[0] + np.float32(1.0))
    assert np.array_equal(found[1], changed(pixels[1:], contrast=0.8)[0])


ALL = Intensities(
    noise_std=0.1,
    blur_sigma_voxels=(0.7, 0.9),
    brightness_factor=1.1,
    brightness_shift=0.1,
    contrast=1.2,
    low_resolution=0.7,
    gamma_inverted=0.8,
    gamma=1.3,
)


def test_changes_come_in_the_order_in_which_they_are_listed():
    pixels = image(17, 20)
    step_by_step = pixels
    for change in (
        {"noise_std": 0.1},
        {"blur_sigma_voxels": (0.7, 0.9)},
        {"brightness_factor": 1.1, "brightness_shift": 0.1},
        {"contrast": 1.2},
        {"low_resolution": 0.7},
        {"gamma_inverted": 0.8},
        {"gamma": 1.3},
    ):
        step_by_step = changed(step_by_step, **change)
    assert np.array_equal(changed(pixels, ALL), step_by_step)


@pytest.mark.parametrize("value", [0.0, 3.0, -2.5])
def test_a_constant_image_stays_constant_and_finite(value):
    pixels = np.full((1, 9, 9), value, dtype=np.float32)
    found = changed(
        pixels, contrast=1.2, low_resolution=0.6, blur_sigma_voxels=(0.8, 0.8), gamma=0.7, gamma_inverted=1.4
    )
    np.testing.assert_allclose(found, pixels, atol=1e-5)


@pytest.mark.parametrize("shape", [(33, 47), (31, 27, 37)])
def test_a_patch_is_the_same_bitwise_whatever_the_number_of_threads(shape):
    pixels, before = image(*shape), torch.get_num_threads()
    augmentation = Augmentation(
        flip_axes=[0],
        rotation_probability=1.0,
        elastic_probability=1.0,
        per_channel=True,
        **{
            f"{name}_probability": 1.0
            for name in ("noise", "blur", "brightness", "contrast", "low_resolution", "gamma_inverted", "gamma")
        },
    )
    drawn = augmentation.draw(np.random.default_rng(0), spatial_dims=len(shape), n_channels=2)
    patches = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            patches.append(
                cut_patch(
                    pixels,
                    Annotation(),
                    center=tuple(n / 2 for n in shape),
                    patch_size=tuple(n - 3 for n in shape),
                    drawn=drawn,
                    spacing_mm=(1.0,) * len(shape),
                )[0].numpy()
            )
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(patches[0], patches[1])
    assert np.array_equal(patches[0], patches[2])

"""Changes of intensities, made in place on one channel; the same whatever the number of threads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32

from medexp.data.augmentation.drawn import Intensities
from medexp.data.augmentation.resampling import interpolate_along_axes

# A Gaussian is cut off at so many standard deviations.
_TRUNCATE = 3.0
_SMALLEST = 1e-7

Channel = Float32[np.ndarray, "*spatial"]


def change_intensities(pixels: Float32[np.ndarray, "channels *spatial"], changes: Sequence[Intensities]) -> None:
    """Change all channels in place, alike by the only change or each by its own."""
    for number, channel in enumerate(pixels):
        change = changes[number if len(changes) > 1 else 0]
        if change.noise_std:
            _add_noise(channel, change.noise_std, change.noise_seed + number)
        if change.blur_sigma_voxels:
            _blur(channel, change.blur_sigma_voxels)
        if change.brightness_factor != 1.0 or change.brightness_shift:
            channel *= change.brightness_factor
            channel += change.brightness_shift
        if change.contrast != 1.0:
            _stretch(channel, change.contrast)
        if change.low_resolution != 1.0:
            _coarsen(channel, change.low_resolution)
        if change.gamma_inverted != 1.0:
            np.negative(channel, out=channel)
            _bend(channel, change.gamma_inverted)
            np.negative(channel, out=channel)
        if change.gamma != 1.0:
            _bend(channel, change.gamma)


def _add_noise(channel: Channel, std: float, seed: int) -> None:
    noise = torch.randn(channel.shape, generator=torch.Generator().manual_seed(seed)).numpy()
    noise *= std
    channel += noise


def _blur(channel: Channel, sigmas: Sequence[float]) -> None:
    """A Gaussian along each axis, the image reflected at its outermost voxels."""
    for axis, (sigma, n) in enumerate(zip(sigmas, channel.shape, strict=True)):
        radius = int(_TRUNCATE * sigma + 0.5)
        weights = np.exp(-0.5 * np.square(np.arange(radius + 1) / sigma))
        weights /= weights[0] + 2 * weights[1:].sum()
        padding = [(radius, radius) if axis == i else (0, 0) for i in range(channel.ndim)]
        # The axis in front: whole blocks of memory are added where it is the first already.
        padded, result = np.moveaxis(np.pad(channel, padding, mode="reflect"), axis, 0), np.moveaxis(channel, axis, 0)
        result *= float(weights[0])
        for distance, weight in enumerate(weights[1:].tolist(), start=1):
            both = padded[radius - distance : radius - distance + n] + padded[radius + distance :][:n]
            both *= weight
            result += both


def _stretch(channel: Channel, factor: float) -> None:
    """Distances from the mean times a factor; the channel's range is kept."""
    mean, low, high = channel.mean(), channel.min(), channel.max()
    channel -= mean
    channel *= factor
    channel += mean
    np.clip(channel, low, high, out=channel)


def _coarsen(channel: Channel, factor: float) -> None:
    """As taken with fewer voxels along each axis: the nearest ones, and linear interpolation between them."""
    fewer = [max(1, round(n * factor)) for n in channel.shape]
    kept = [((np.arange(m) + 0.5) * n / m).astype(int) for n, m in zip(channel.shape, fewer, strict=True)]
    coarse = channel[np.ix_(*kept)]
    channel[...] = interpolate_along_axes(
        coarse, [(np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(channel.shape, fewer, strict=True)]
    )


def _bend(channel: Channel, exponent: float) -> None:
    """A gamma curve on intensities scaled to [0, 1] that leaves the channel's mean and standard deviation."""
    mean, std, low, high = channel.mean(), channel.std(), channel.min(), channel.max()
    channel -= low
    channel /= max(high - low, np.float32(_SMALLEST))
    # x^e as exp(e log x) takes half of the time of np.power.
    with np.errstate(divide="ignore"):
        np.log(channel, out=channel)
    channel *= exponent
    np.exp(channel, out=channel)
    bent_mean, bent_std = channel.mean(), channel.std()
    channel -= bent_mean
    channel *= std / max(bent_std, np.float32(_SMALLEST))
    channel += mean

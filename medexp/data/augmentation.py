"""Random changes of a training patch; all random numbers are drawn on the CPU from the sample's own generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from medexp.core.errors import UsageError
from medexp.core.types import Annotation
from medexp.data.annotation import renumbered


@dataclass(frozen=True)
class Drawn:
    """The random parameters of one sample.

    Attributes:
        matrix: Matrix of shape (d, d) from offsets in the patch to offsets in the image, in voxels.
        brightness: Added to normalised intensities.
        contrast: Factor on the distance from each channel's mean.
        gamma: Exponent on intensities scaled to [0, 1].
        noise_std: Standard deviation of the Gaussian noise.
        noise_seed: Seed of the noise.
    """

    matrix: np.ndarray
    brightness: float = 0.0
    contrast: float = 1.0
    gamma: float = 1.0
    noise_std: float = 0.0
    noise_seed: int = 0
    axes_flipped: tuple[int, ...] = field(default=())


class Augmentation:
    """Flips, rotation and scaling in one resampling, then contrast, brightness, gamma and noise.

    Each ingredient is applied with its own probability; probability 0 turns it off.

    Args:
        flip_axes: Axes that are reversed with probability .5 each; leave out an axis that separates left from right.
        rotation_probability: Probability of a rotation.
        rotation_degrees: Largest angle, in each plane of the axes.
        scale_probability: Probability of scaling.
        scale_range: Smallest and largest factor on the size of the objects.
        brightness_probability: Probability of a shift of all intensities.
        brightness: Largest shift, in units of the normalised intensities.
        contrast_probability: Probability of a change of contrast.
        contrast_range: Smallest and largest factor.
        gamma_probability: Probability of a gamma curve.
        gamma_range: Smallest and largest exponent.
        noise_probability: Probability of Gaussian noise.
        noise_std: Largest standard deviation, in units of the normalised intensities.
    """

    def __init__(
        self,
        *,
        flip_axes: Sequence[int],
        rotation_probability: float,
        rotation_degrees: float,
        scale_probability: float,
        scale_range: Sequence[float],
        brightness_probability: float,
        brightness: float,
        contrast_probability: float,
        contrast_range: Sequence[float],
        gamma_probability: float,
        gamma_range: Sequence[float],
        noise_probability: float,
        noise_std: float,
    ) -> None:
        for name, (low, high) in {"scale": scale_range, "contrast": contrast_range, "gamma": gamma_range}.items():
            if not 0 < low <= high:
                raise UsageError(f"augmentation.{name}_range needs 0 < low <= high, got {[low, high]}")
        _check_probabilities(
            rotation=rotation_probability,
            scale=scale_probability,
            brightness=brightness_probability,
            contrast=contrast_probability,
            gamma=gamma_probability,
            noise=noise_probability,
        )
        for name, largest in {
            "rotation_degrees": rotation_degrees,
            "brightness": brightness,
            "noise_std": noise_std,
        }.items():
            if largest < 0:
                raise UsageError(f"augmentation.{name} needs a value >= 0, got {largest}")
        if any(axis < 0 for axis in flip_axes):
            raise UsageError(f"augmentation.flip_axes counts the spatial axes from 0, got {list(flip_axes)}")
        self.flip_axes = tuple(flip_axes)
        self.rotation_probability = rotation_probability
        self.rotation_degrees = rotation_degrees
        self.scale_probability = scale_probability
        self.scale_range = (scale_range[0], scale_range[1])
        self.brightness_probability = brightness_probability
        self.brightness = brightness
        self.contrast_probability = contrast_probability
        self.contrast_range = (contrast_range[0], contrast_range[1])
        self.gamma_probability = gamma_probability
        self.gamma_range = (gamma_range[0], gamma_range[1])
        self.noise_probability = noise_probability
        self.noise_std = noise_std

    def check_dims(self, spatial_dims: int) -> None:
        """Raise UsageError where an axis is named that images of so many dimensions have not."""
        if any(axis >= spatial_dims for axis in self.flip_axes):
            raise UsageError(
                f"augmentation.flip_axes needs axes 0..{spatial_dims - 1} for {spatial_dims}D images, "
                f"got {list(self.flip_axes)}"
            )

    def draw(self, random: np.random.Generator, spatial_dims: int) -> Drawn:
        """Draw the parameters of one sample; a fixed number of draws, so that ingredients do not disturb each other."""
        flips = random.random(spatial_dims) < 0.5
        chances = random.random(6)
        angles = np.radians(random.uniform(-1, 1, size=3) * self.rotation_degrees)
        scale, contrast = random.uniform(*self.scale_range), random.uniform(*self.contrast_range)
        gamma = random.uniform(*self.gamma_range)
        brightness, noise = random.uniform(-1, 1) * self.brightness, random.random() * self.noise_std
        matrix = np.eye(spatial_dims)
        if chances[0] < self.rotation_probability:
            matrix = _rotation(angles, spatial_dims)
        if chances[1] < self.scale_probability:
            matrix = matrix / scale
        return Drawn(
            matrix=matrix,
            axes_flipped=tuple(axis for axis in self.flip_axes if flips[axis]),
            brightness=brightness if chances[2] < self.brightness_probability else 0.0,
            contrast=contrast if chances[3] < self.contrast_probability else 1.0,
            gamma=gamma if chances[4] < self.gamma_probability else 1.0,
            noise_std=noise if chances[5] < self.noise_probability else 0.0,
            noise_seed=int(random.integers(2**31)),
        )


def _check_probabilities(**probabilities: float) -> None:
    for name, probability in probabilities.items():
        if not 0 <= probability <= 1:
            raise UsageError(f"augmentation.{name}_probability needs a value in [0, 1], got {probability}")


def cut_patch(
    pixels: Float[np.ndarray, "channels *spatial"],
    annotation: Annotation,
    *,
    center: tuple[float, ...],
    patch_size: tuple[int, ...],
    drawn: Drawn,
) -> tuple[Tensor, Annotation]:
    """Cut one patch, reading only the voxels that it needs; outside the image lie zeros.

    Args:
        pixels: Image, possibly memory-mapped.
        annotation: What is known of it, on the same grid.
        center: Centre of the patch in voxels.
        patch_size: Spatial shape of the result.
        drawn: Random parameters of the sample.

    Returns:
        The patch (channels, *patch_size) in fp32 and its annotation; of objects those whose centre it holds.
    """
    cut = _Cut.of(center, patch_size, drawn)
    region = _change_intensities(cut.interpolated(pixels), drawn)
    mask, instances = (
        None if layer is None else cut.nearest(layer).numpy() for layer in (annotation.mask, annotation.instances)
    )
    objects = annotation.objects
    if instances is not None and objects is not None:
        instances, objects = renumbered(instances, objects)
    elif objects is not None:
        objects, _ = objects.moved(*cut.to_patch()).clipped(patch_size)
    return region, replace(annotation, mask=mask, instances=instances, objects=objects)


@dataclass(frozen=True)
class _Cut:
    """Which window of an image a patch needs, and how the patch lies in it.

    Attributes:
        start: First voxel of the window.
        window: Its shape.
        patch_size: Spatial shape of the patch.
        offset: Centre of the patch relative to that of the window, in voxels.
        drawn: Random parameters of the sample.
        is_plain: The patch is the window.
    """

    start: np.ndarray
    window: np.ndarray
    patch_size: tuple[int, ...]
    offset: np.ndarray
    drawn: Drawn
    is_plain: bool

    @classmethod
    def of(cls, center: tuple[float, ...], patch_size: tuple[int, ...], drawn: Drawn) -> _Cut:
        """The cut around a centre."""
        size = np.array(patch_size)
        is_plain = np.array_equal(drawn.matrix, np.eye(len(size)))
        window = size if is_plain else np.ceil(np.abs(drawn.matrix) @ size).astype(int) + 2
        start = np.floor(np.array(center) - (window - 1) / 2 + 0.5).astype(int)
        # A window of whole voxels may lie half a voxel beside the centre; a plain patch is laid on whole voxels.
        offset = np.zeros(len(size)) if is_plain else np.array(center) - (start + (window - 1) / 2)
        return cls(start, window, patch_size, offset, drawn, is_plain)

    def interpolated(self, pixels: Float[np.ndarray, "channels *spatial"]) -> Tensor:
        """Intensities in the patch."""
        region = _read_window(pixels, self.start, self.window)
        return self._flipped(region if self.is_plain else self._sampled(region, "bilinear"))

    def nearest(self, labels: Integer[np.ndarray, "*spatial"]) -> Tensor:
        """Ids in the patch; ids below 2^24 are exact in fp32, and the nearest neighbour makes no new ones."""
        region = _read_window(labels[None], self.start, self.window)
        if not self.is_plain:
            region = self._sampled(region.float(), "nearest").to(region.dtype)
        return self._flipped(region)[0]

    def to_patch(self) -> tuple[np.ndarray, np.ndarray]:
        """Matrix and offset from places in the image to places in the patch (voxel i covers [i, i + 1))."""
        size = np.array(self.patch_size, dtype=np.float64)
        inverse = np.linalg.inv(self.drawn.matrix)
        center = self.start + self.window / 2 + self.offset
        offset = size / 2 - inverse @ center
        for axis in self.drawn.axes_flipped:
            inverse[axis] *= -1
            offset[axis] = size[axis] - offset[axis]
        return inverse, offset

    def _sampled(self, region: Tensor, mode: str) -> Tensor:
        return F.grid_sample(region[None], self._grid, mode=mode, padding_mode="zeros", align_corners=False)[0]

    @cached_property
    def _grid(self) -> Tensor:
        return _sampling_grid(self.drawn.matrix, self.patch_size, tuple(map(int, self.window)), self.offset)

    def _flipped(self, region: Tensor) -> Tensor:
        axes = [axis + 1 for axis in self.drawn.axes_flipped]
        return region.flip(axes) if axes else region


def _read_window(array: np.ndarray, start: np.ndarray, size: np.ndarray) -> Tensor:
    """Copy a window of the last axes, with zeros where it leaves the array."""
    window = np.zeros((array.shape[0], *size), dtype=array.dtype)
    inside = [
        (max(first, 0), min(first + length, n)) for first, length, n in zip(start, size, array.shape[1:], strict=True)
    ]
    if all(low < high for low, high in inside):
        source = tuple(slice(low, high) for low, high in inside)
        target = tuple(slice(low - first, high - first) for (low, high), first in zip(inside, start, strict=True))
        window[(slice(None), *target)] = array[(slice(None), *source)]
    return torch.from_numpy(window)


def _sampling_grid(
    matrix: np.ndarray, patch_size: tuple[int, ...], window: tuple[int, ...], offset: np.ndarray
) -> Tensor:
    """Normalised coordinates for `grid_sample`: the place of each patch voxel in a window, `offset` from its centre."""
    dims = len(patch_size)
    # affine_grid maps normalised patch coordinates; scale by sizes turns them to voxels and back.
    normalised = matrix * np.array(patch_size)[None, :] / np.array(window)[:, None]
    theta = torch.zeros(1, dims, dims + 1)
    theta[0, :, :dims] = torch.from_numpy(normalised[::-1, ::-1].copy())
    theta[0, :, dims] = torch.from_numpy((2 * offset / np.array(window))[::-1].copy())
    return F.affine_grid(theta, [1, 1, *patch_size], align_corners=False)


def _rotation(angles: np.ndarray, spatial_dims: int) -> np.ndarray:
    """Rotation matrix: by the first angle in 2D, by one angle in each plane of the axes in 3D."""
    planes = [(0, 1)] if spatial_dims == 2 else [(0, 1), (0, 2), (1, 2)]
    matrix = np.eye(spatial_dims)
    for angle, (first, second) in zip(angles, planes, strict=False):
        turn = np.eye(spatial_dims)
        turn[first, first] = turn[second, second] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ turn
    return matrix


def _change_intensities(region: Tensor, drawn: Drawn) -> Tensor:
    axes = tuple(range(1, region.ndim))
    if drawn.contrast != 1.0:
        mean = region.mean(dim=axes, keepdim=True)
        region = mean + drawn.contrast * (region - mean)
    if drawn.gamma != 1.0:
        low, high = region.amin(dim=axes, keepdim=True), region.amax(dim=axes, keepdim=True)
        width = (high - low).clamp_min(1e-7)
        region = low + width * ((region - low) / width).pow(drawn.gamma)
    if drawn.brightness != 0.0:
        region = region + drawn.brightness
    if drawn.noise_std > 0.0:
        generator = torch.Generator().manual_seed(drawn.noise_seed)
        region = region + drawn.noise_std * torch.randn(region.shape, generator=generator)
    return region

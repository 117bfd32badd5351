"""The knobs of random changes of a training patch, and the draw of one sample's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medexp.core.errors import UsageError
from medexp.data.augmentation.drawn import Drawn, Intensities

# Control points that move by less than this part of their distance cannot fold the image (Choi and Lee, Injectivity
# conditions of 2D and 3D uniform cubic B-spline functions, Graphical Models 62, 2000: 1/2.48 in 3D).
_INJECTIVE = 0.4


@dataclass(kw_only=True)
class Augmentation:
    """Flips, rotation, scaling and elastic deformation in one resampling, then changes of the intensities.

    Each ingredient is applied with its own probability; probability 0 turns it off. Rotation, scale and deformation act
    in millimetres (in pixels on pictures without a physical scale), so that they do not shear where voxels are longer
    along one axis. Factors lie as often below 1 as above it. All random numbers are drawn from the sample's own
    generator.

    Attributes:
        flip_axes: Axes that are reversed with probability .5 each; leave out an axis that separates left from right.
        rotation_probability: Probability of a rotation.
        rotation_degrees: Largest angle, in each plane of the axes.
        scale_probability: Probability of scaling.
        scale_range: Smallest and largest factor on the size of the objects.
        elastic_probability: Probability of an elastic deformation.
        elastic_mm: Largest displacement along each axis.
        elastic_spacing_mm: Distance of the control points whose random displacements cubic B-splines interpolate.
        per_channel: Each channel draws the changes of its intensities for itself, else all change alike.
        noise_probability: Probability of Gaussian noise.
        noise_std: Largest standard deviation, in units of the normalised intensities.
        blur_probability: Probability of a Gaussian blur.
        blur_sigma_voxels: Smallest and largest standard deviation, drawn for each axis.
        brightness_probability: Probability of another brightness.
        brightness: Largest shift of all intensities, in units of the normalised intensities.
        brightness_range: Smallest and largest factor on all intensities.
        contrast_probability: Probability of another contrast.
        contrast_range: Smallest and largest factor on the distance from the mean; the range is kept.
        low_resolution_probability: Probability of an image taken with fewer voxels.
        low_resolution_range: Smallest and largest factor on the number of voxels along each axis, up to 1.
        gamma_inverted_probability: Probability of a gamma curve on the reversed intensities.
        gamma_probability: Probability of a gamma curve; mean and standard deviation are kept.
        gamma_range: Smallest and largest exponent of both curves.
    """

    flip_axes: Sequence[int] = ()
    rotation_probability: float = 0.0
    rotation_degrees: float = 15.0
    scale_probability: float = 0.0
    scale_range: Sequence[float] = (0.7, 1.4)
    elastic_probability: float = 0.0
    elastic_mm: float = 8.0
    elastic_spacing_mm: float = 20.0
    per_channel: bool = False
    noise_probability: float = 0.0
    noise_std: float = 0.1
    blur_probability: float = 0.0
    blur_sigma_voxels: Sequence[float] = (0.5, 1.0)
    brightness_probability: float = 0.0
    brightness: float = 0.2
    brightness_range: Sequence[float] = (1.0, 1.0)
    contrast_probability: float = 0.0
    contrast_range: Sequence[float] = (0.75, 1.25)
    low_resolution_probability: float = 0.0
    low_resolution_range: Sequence[float] = (0.5, 1.0)
    gamma_inverted_probability: float = 0.0
    gamma_probability: float = 0.0
    gamma_range: Sequence[float] = (0.7, 1.5)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_probability") and not 0 <= value <= 1:
                raise UsageError(f"augmentation.{name} needs a value in [0, 1], got {value}")
            if name.endswith(("_range", "_sigma_voxels")) and not (len(value) == 2 and 0 < value[0] <= value[1]):
                raise UsageError(f"augmentation.{name} needs 0 < low <= high, got {list(value)}")
            if name in ("rotation_degrees", "elastic_mm", "noise_std", "brightness") and value < 0:
                raise UsageError(f"augmentation.{name} needs a value >= 0, got {value}")
        if self.low_resolution_range[1] > 1:
            raise UsageError(
                f"augmentation.low_resolution_range needs factors up to 1, got {list(self.low_resolution_range)}"
            )
        if self.elastic_mm > _INJECTIVE * self.elastic_spacing_mm:
            raise UsageError(
                f"augmentation.elastic_mm needs at most {_INJECTIVE} of elastic_spacing_mm="
                f"{self.elastic_spacing_mm}, so that nothing is folded, got {self.elastic_mm}"
            )
        if any(axis < 0 for axis in self.flip_axes):
            raise UsageError(f"augmentation.flip_axes counts the spatial axes from 0, got {list(self.flip_axes)}")

    def check_dims(self, spatial_dims: int) -> None:
        """Raise UsageError where an axis is named that images of so many dimensions have not."""
        if any(axis >= spatial_dims for axis in self.flip_axes):
            raise UsageError(
                f"augmentation.flip_axes needs axes 0..{spatial_dims - 1} for {spatial_dims}D images, "
                f"got {list(self.flip_axes)}"
            )

    def draw(self, random: np.random.Generator, *, spatial_dims: int, n_channels: int) -> Drawn:
        """Draw the parameters of one sample; a fixed number of draws, so that ingredients do not disturb each other."""
        flipped = random.random(3) < 0.5
        rotation, scale, elastic = random.random(3)
        degrees = random.uniform(-1, 1, size=3) * self.rotation_degrees
        factor = _factor(random, self.scale_range)
        elastic_mm = random.random() * self.elastic_mm
        planes = 1 if spatial_dims == 2 else 3
        return Drawn(
            rotation_degrees=tuple(degrees[:planes].tolist()) if rotation < self.rotation_probability else (),
            scale=factor if scale < self.scale_probability else 1.0,
            axes_flipped=tuple(axis for axis in self.flip_axes if flipped[axis]),
            elastic_mm=elastic_mm if elastic < self.elastic_probability else 0.0,
            elastic_spacing_mm=self.elastic_spacing_mm,
            elastic_seed=_seed(random),
            intensities=tuple(
                self._draw_intensities(random, spatial_dims) for _ in range(n_channels if self.per_channel else 1)
            ),
        )

    def _draw_intensities(self, random: np.random.Generator, spatial_dims: int) -> Intensities:
        noise, blur, brightness, contrast, low_resolution, gamma_inverted, gamma = random.random(7)
        noise_std, shift = random.random() * self.noise_std, random.uniform(-1, 1) * self.brightness
        sigmas = [_between(random, self.blur_sigma_voxels) for _ in range(3)]
        brighter, contrasted = _factor(random, self.brightness_range), _factor(random, self.contrast_range)
        fewer = _between(random, self.low_resolution_range)
        exponent_inverted, exponent = _factor(random, self.gamma_range), _factor(random, self.gamma_range)
        is_brighter = brightness < self.brightness_probability
        return Intensities(
            noise_std=noise_std if noise < self.noise_probability else 0.0,
            noise_seed=_seed(random),
            blur_sigma_voxels=tuple(sigmas[:spatial_dims]) if blur < self.blur_probability else (),
            brightness_factor=brighter if is_brighter else 1.0,
            brightness_shift=shift if is_brighter else 0.0,
            contrast=contrasted if contrast < self.contrast_probability else 1.0,
            low_resolution=fewer if low_resolution < self.low_resolution_probability else 1.0,
            gamma_inverted=exponent_inverted if gamma_inverted < self.gamma_inverted_probability else 1.0,
            gamma=exponent if gamma < self.gamma_probability else 1.0,
        )


def _factor(random: np.random.Generator, limits: Sequence[float]) -> float:
    """A factor that is as likely to lie below 1 as above it, where both are possible."""
    low, high = limits
    below, place = random.random(2).tolist()
    if low < 1 < high:
        low, high = (low, 1.0) if below < 0.5 else (1.0, high)
    return low + place * (high - low)


def _between(random: np.random.Generator, limits: Sequence[float]) -> float:
    low, high = limits
    return float(random.uniform(low, high))


def _seed(random: np.random.Generator) -> int:
    return int(random.integers(2**31))

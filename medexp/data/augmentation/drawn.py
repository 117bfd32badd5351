"""The random parameters of one training sample, as they are drawn, applied and recorded."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

# The planes of the axes in which an image can be turned.
_PLANES = {2: ((0, 1),), 3: ((0, 1), (0, 2), (1, 2))}


@dataclass(frozen=True)
class Intensities:
    """How intensities change, in the order of the attributes; the defaults change nothing.

    Attributes:
        noise_std: Standard deviation of Gaussian noise that is added.
        noise_seed: Seed of the noise.
        blur_sigma_voxels: Standard deviation of a Gaussian blur along each axis; empty for none.
        brightness_factor: Factor on the intensities.
        brightness_shift: Added to the intensities.
        contrast: Factor on the distance from the channel's mean; the channel's range is kept.
        low_resolution: Factor on the number of voxels along each axis, in between; 1 for all of them.
        gamma_inverted: Exponent on the intensities scaled to [0, 1] from their largest to their smallest.
        gamma: Exponent on the intensities scaled to [0, 1]; mean and standard deviation of the channel are kept.
    """

    noise_std: float = 0.0
    noise_seed: int = 0
    blur_sigma_voxels: tuple[float, ...] = ()
    brightness_factor: float = 1.0
    brightness_shift: float = 0.0
    contrast: float = 1.0
    low_resolution: float = 1.0
    gamma_inverted: float = 1.0
    gamma: float = 1.0


@dataclass(frozen=True)
class Drawn:
    """The random parameters of one sample; the defaults change nothing.

    Places are deformed first, then turned, scaled and flipped, as a whole in one resampling.

    Attributes:
        rotation_degrees: Angle by which what is seen is turned in each plane of the axes, from the plane's first axis
            to its second as by `np.rot90`: one in 2D, those of (0, 1), (0, 2) and (1, 2) in 3D; empty for none.
        scale: Factor on the size of the objects.
        axes_flipped: Axes that are reversed.
        elastic_mm: Largest displacement of a control point along each axis.
        elastic_spacing_mm: Distance of the control points.
        elastic_seed: Seed of their displacements.
        intensities: Changes of the intensities: one for all channels, or one a channel.
    """

    rotation_degrees: tuple[float, ...] = ()
    scale: float = 1.0
    axes_flipped: tuple[int, ...] = ()
    elastic_mm: float = 0.0
    elastic_spacing_mm: float = 1.0
    elastic_seed: int = 0
    intensities: tuple[Intensities, ...] = (Intensities(),)

    @property
    def keeps_grid(self) -> bool:
        """Whether every voxel of the patch is one of the image, so that nothing is to be resampled."""
        return self.scale == 1.0 and self.elastic_mm == 0.0 and not any(self.rotation_degrees)

    def matrix_mm(self, spatial_dims: int) -> Float[np.ndarray, "dims dims"]:
        """Rotation and scale: from offsets in the patch to offsets in the image, both in millimetres."""
        matrix = np.eye(spatial_dims)
        for degrees, (first, second) in zip(self.rotation_degrees, _PLANES[spatial_dims], strict=False):
            angle, turn = math.radians(degrees), np.eye(spatial_dims)
            turn[first, first] = turn[second, second] = math.cos(angle)
            turn[first, second], turn[second, first] = math.sin(angle), -math.sin(angle)
            matrix = matrix @ turn
        return matrix / self.scale

    def as_plain(self) -> dict[str, Any]:
        """All parameters, for JSON."""
        return asdict(self)

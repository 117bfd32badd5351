"""From an image as it was read to the network's grid: orientation, spacing, intensities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float

from medexp.core.errors import UsageError
from medexp.core.geometry import Placement, orient_to_world, resized_shape
from medexp.core.resample import resize_linear
from medexp.core.types import Annotation, Image
from medexp.data.annotation import place_annotation, writable


@runtime_checkable
class Normalisation(Protocol):
    """Brings the intensities of an image to a common scale."""

    def __call__(self, pixels: Float[np.ndarray, "channels *spatial"]) -> Float[np.ndarray, "channels *spatial"]:
        """Return the normalised image; the argument is left as it was."""
        ...

    def knobs(self) -> dict[str, Any]:
        """What distinguishes two normalisations, for the key of the cache."""
        ...


class ZScore:
    """Zero mean and unit variance per channel and image.

    Args:
        nonzero: Take mean and variance from the voxels that are not zero, and leave zeros at zero (skull-stripped MR).
    """

    def __init__(self, *, nonzero: bool = False) -> None:
        self.nonzero = nonzero

    def __call__(self, pixels: Float[np.ndarray, "channels *spatial"]) -> Float[np.ndarray, "channels *spatial"]:
        """Return the normalised image; a constant channel becomes zero."""
        return np.stack([_zscore(channel, nonzero=self.nonzero) for channel in pixels])

    def knobs(self) -> dict[str, Any]:
        """The name and `nonzero`."""
        return {"name": "zscore", "nonzero": self.nonzero}


def _zscore(channel: np.ndarray, *, nonzero: bool) -> np.ndarray:
    selected = channel != 0 if nonzero else np.ones_like(channel, dtype=bool)
    if not selected.any():
        return np.zeros_like(channel, dtype=np.float32)
    values = channel[selected].astype(np.float64)
    scale = values.std()
    normalised = (channel - values.mean()) / (scale if scale > 0 else 1.0)
    return np.where(selected, normalised, 0.0).astype(np.float32)


class Window:
    """A fixed intensity window mapped to [0, 1], values outside clipped (CT in Hounsfield units, 8-bit pictures).

    Args:
        lower: Intensity that becomes 0.
        upper: Intensity that becomes 1.
    """

    def __init__(self, *, lower: float, upper: float) -> None:
        if upper <= lower:
            raise UsageError(f"normalisation needs lower < upper, got lower={lower}, upper={upper}")
        self.lower = lower
        self.upper = upper

    def __call__(self, pixels: Float[np.ndarray, "channels *spatial"]) -> Float[np.ndarray, "channels *spatial"]:
        """Return the clipped and scaled image."""
        return np.clip((pixels - self.lower) / (self.upper - self.lower), 0.0, 1.0).astype(np.float32)

    def knobs(self) -> dict[str, Any]:
        """The name and the window."""
        return {"name": "window", "lower": self.lower, "upper": self.upper}


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image on the network's grid.

    Attributes:
        pixels: Normalised intensities.
        annotation: What is known of it, on the network's grid.
        placement: How the network's grid lies on the image's grid.
    """

    pixels: Float[np.ndarray, "channels *spatial"]
    annotation: Annotation
    placement: Placement


class Preprocessing:
    """The deterministic way from an image as read to the network's grid.

    Args:
        orient: Permute and flip the axes so that they run along the axes of the world.
        spacing_mm: Spacing of the network's grid along its axes; None keeps each image's own.
        normalisation: Intensity scale.
    """

    def __init__(self, *, orient: bool, spacing_mm: Sequence[float] | None, normalisation: Normalisation) -> None:
        self.orient = orient
        self.spacing_mm = None if spacing_mm is None else tuple(float(value) for value in spacing_mm)
        self.normalisation = normalisation
        if self.spacing_mm is not None and min(self.spacing_mm) <= 0:
            raise UsageError(f"preprocessing.spacing_mm needs positive values, got {self.spacing_mm}")

    def __call__(self, image: Image) -> Prepared:
        """Prepare one image."""
        placement = self.placement(image)
        pixels = writable(placement.orient(image.pixels))
        pixels = resize_linear(torch.from_numpy(pixels), placement.resized_shape).numpy()
        annotation = place_annotation(image.annotation or Annotation(), placement)
        return Prepared(pixels=self.normalisation(pixels), annotation=annotation, placement=placement)

    def placement(self, image: Image) -> Placement:
        """How the network's grid lies on the grid of an image."""
        geometry = image.geometry
        identity = Placement.identity(geometry.shape)
        permutation, flipped = orient_to_world(geometry) if self.orient else (identity.permutation, ())
        shape = tuple(geometry.shape[axis] for axis in permutation)
        if self.spacing_mm is not None:
            if len(self.spacing_mm) != geometry.spatial_dims:
                raise UsageError(
                    f"preprocessing.spacing_mm needs {geometry.spatial_dims} values for {image.case.case_id}, "
                    f"got {self.spacing_mm}"
                )
            spacing = tuple(geometry.spacing_mm[axis] for axis in permutation)
            shape = resized_shape(shape, spacing, self.spacing_mm)
        return Placement(geometry.shape, permutation, flipped, shape)

    def knobs(self) -> dict[str, Any]:
        """What distinguishes two preprocessings, for the key of the cache."""
        return {"orient": self.orient, "spacing_mm": self.spacing_mm, "normalisation": self.normalisation.knobs()}

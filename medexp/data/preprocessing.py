"""From an image as it was read to the network's grid: cropping, orientation, spacing, intensities."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast, get_args

import numpy as np
import torch
from jaxtyping import Float

from medexp.core.errors import UsageError
from medexp.core.geometry import Placement, bounding_box, orient_to_world, resized_shape
from medexp.core.resample import Interpolation, resize_argmax, resize_nearest, resize_smooth
from medexp.core.types import Annotation, Image
from medexp.data.annotation import ResizeLabels, place_annotation, writable
from medexp.data.normalisation.base import Foreground, Normalisation, Scheme


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image on the network's grid.

    Attributes:
        pixels: Normalised intensities.
        annotation: What is known of it, on the network's grid.
        placement: How the network's grid lies on the image's grid.
        spacing_mm: Distance between neighbouring voxels along each axis of the network's grid (pixels without a scale).
    """

    pixels: Float[np.ndarray, "channels *spatial"]
    annotation: Annotation
    placement: Placement
    spacing_mm: tuple[float, ...]


class Preprocessing:
    """The deterministic way from an image as read to the network's grid.

    Args:
        orient: Permute and flip the axes so that they run along the axes of the world.
        spacing_mm: Spacing of the network's grid along its axes; None keeps each image's own.
        normalisation: Intensity scale, or what makes one for the dataset (see `fit`).
        crop_zeros: Leave out the margin in which every channel is zero, and what is annotated there.
        interpolation: "cubic" or "linear", for the images; either averages where voxels become fewer.
        mask_interpolation: "nearest" takes the label of the nearest voxel, "argmax" the one with the largest share
            after interpolation. Instances always take the nearest voxel's.
    """

    def __init__(
        self,
        *,
        orient: bool,
        spacing_mm: Sequence[float] | None,
        normalisation: Normalisation | Scheme,
        crop_zeros: bool = False,
        interpolation: str = "cubic",
        mask_interpolation: str = "nearest",
    ) -> None:
        if interpolation not in get_args(Interpolation):
            raise UsageError(
                f"preprocessing.interpolation needs one of {', '.join(get_args(Interpolation))}, got {interpolation}"
            )
        of_mask: dict[str, ResizeLabels] = {
            "nearest": resize_nearest,
            "argmax": partial(resize_argmax, interpolation=cast(Interpolation, interpolation)),
        }
        if mask_interpolation not in of_mask:
            raise UsageError(
                f"preprocessing.mask_interpolation needs one of {', '.join(of_mask)}, got {mask_interpolation}"
            )
        self.orient = orient
        self.spacing_mm = None if spacing_mm is None else tuple(float(value) for value in spacing_mm)
        self.normalisation = normalisation
        self.crop_zeros = crop_zeros
        self.interpolation = cast(Interpolation, interpolation)
        self.mask_interpolation = mask_interpolation
        self._resize_mask = of_mask[mask_interpolation]
        if self.spacing_mm is not None and min(self.spacing_mm) <= 0:
            raise UsageError(f"preprocessing.spacing_mm needs positive values, got {self.spacing_mm}")

    def fit(self, *, channels: tuple[str, ...], foreground: Foreground) -> Preprocessing:
        """The preprocessing with the intensity scale that fits a dataset.

        Args:
            channels: Names of its channels.
            foreground: Intensities of its training cases; called where the scale follows from them.

        Returns:
            Itself where the scale was fixed before.
        """
        if not isinstance(self.normalisation, Scheme):
            return self
        fitted = copy.copy(self)
        fitted.normalisation = self.normalisation.fit(channels=channels, foreground=foreground)
        return fitted

    def __call__(self, image: Image) -> Prepared:
        """Prepare one image; UsageError where the normalisation was not fitted to the dataset."""
        normalise, placement = self._scale, self.placement(image)
        oriented = torch.from_numpy(writable(placement.orient(image.pixels)))
        pixels = resize_smooth(oriented, placement.resized_shape, self.interpolation).numpy()
        annotation = place_annotation(image.annotation or Annotation(), placement, resize_mask=self._resize_mask)
        return Prepared(
            pixels=normalise(pixels),
            annotation=annotation,
            placement=placement,
            spacing_mm=_network_spacing_mm(placement, image.geometry.spacing_mm),
        )

    def placement(self, image: Image) -> Placement:
        """How the network's grid lies on the grid of an image."""
        geometry = image.geometry
        if self.crop_zeros:
            start, stop = bounding_box((image.pixels != 0).any(axis=0))
        else:
            start, stop = (0,) * geometry.spatial_dims, geometry.shape
        permutation, flipped = (
            orient_to_world(geometry) if self.orient else (Placement.identity(geometry.shape).permutation, ())
        )
        shape = tuple(stop[axis] - start[axis] for axis in permutation)
        if self.spacing_mm is not None:
            if len(self.spacing_mm) != geometry.spatial_dims:
                raise UsageError(
                    f"preprocessing.spacing_mm needs {geometry.spatial_dims} values for {image.case.case_id}, "
                    f"got {self.spacing_mm}"
                )
            spacing = tuple(geometry.spacing_mm[axis] for axis in permutation)
            shape = resized_shape(shape, spacing, self.spacing_mm)
        return Placement(geometry.shape, permutation, flipped, shape, start, stop)

    def knobs(self) -> dict[str, Any]:
        """What distinguishes two preprocessings, for the key of the cache."""
        return {
            "orient": self.orient,
            "spacing_mm": self.spacing_mm,
            "crop_zeros": self.crop_zeros,
            "interpolation": self.interpolation,
            "mask_interpolation": self.mask_interpolation,
            "normalisation": self._scale.knobs(),
        }

    @property
    def _scale(self) -> Normalisation:
        if not isinstance(self.normalisation, Normalisation):
            raise UsageError(
                f"the normalisation {type(self.normalisation).__name__} follows from a dataset; call Preprocessing.fit "
                "before"
            )
        return self.normalisation


def _network_spacing_mm(placement: Placement, spacing_mm: tuple[float, ...]) -> tuple[float, ...]:
    matrix, _ = placement.to_network()
    voxels_per_mm = np.linalg.norm(matrix / np.array(spacing_mm), axis=1)
    return tuple(float(spacing) for spacing in 1 / voxels_per_mm)

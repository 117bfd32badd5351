"""Detection and counting by density: the objects of a class are the integral of a map."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.core.geometry import Placement
from medexp.core.types import Annotation, Batch, Kind, Prediction
from medexp.tasks._known import classes_of, objects_of_classes, prediction_of, reference_objects
from medexp.tasks.base import Task
from medexp.tasks.semantic import levels_of, to_image_grid

HEAD = "density"
_AXES = "zyx"


class DensityDetection(Task):
    """A map for each class whose integral is the number of its objects, with a Gaussian at the middle of each.

    Sources: V. Lempitsky and A. Zisserman, Learning to count objects in images, NIPS 2010, for the integral; W. Xie,
    J. A. Noble and A. Zisserman, Microscopy cell counting and detection with fully convolutional regression networks,
    Computer Methods in Biomechanics and Biomedical Engineering: Imaging & Visualization 6 (2018), for a network that
    regresses the map, and for detection by its peaks.

    Each Gaussian is normalised to a sum of one inside the grid, so that an object at the border counts as one. Of an
    object whose middle lies outside a training patch nothing is seen in the patch's target.

    Args:
        labels: Name of each label id of the dataset; 0 is the background.
        loss: Terms by name for a list of maps, finest first, and a target of real numbers: a loss of regression.
        sigma_px: Standard deviation of the Gaussians, in voxels of the network's grid.
        scale: What the network learns is the density times this; a density itself is too small to be learned.

    Raises:
        UsageError: There is no class, or a number is not above 0.
    """

    gives = Kind.DENSITY
    judged = Kind.OBJECTS
    usual_metrics = ("count_error", "detection_f1")

    def __init__(self, *, labels: Mapping[int, str], loss: nn.Module, sigma_px: float, scale: float) -> None:
        super().__init__()
        for name, value in {"sigma_px": sigma_px, "scale": scale}.items():
            if not value > 0:
                raise UsageError(f"task.{name} needs a value above 0, got {value}")
        self.loss_function = loss
        self.sigma_px = sigma_px
        self.scale = scale
        self.ids, self.classes = classes_of(labels)
        self.heads = {HEAD: len(self.classes)}

    def sample_targets(self, reference: Annotation) -> dict[str, Any]:
        """Middles of the objects (n, dims) in voxels and their channels (n); n may be 0."""
        objects = objects_of_classes(reference, self.ids)
        centers = torch.from_numpy(objects.centers.astype(np.float32))
        return {HEAD: {"centers": centers, "channels": torch.from_numpy(objects.labels - 1)}}

    def loss(self, outputs: dict[str, Any], targets: dict[str, Any]) -> dict[str, Tensor]:
        """The terms of the configured loss over all levels of deep supervision."""
        levels = levels_of(outputs, HEAD)
        maps = [
            density_of(own["centers"], own["channels"], shape=levels[0].shape[1:], sigma_px=self.sigma_px)
            for own in targets[HEAD]
        ]
        terms: dict[str, Tensor] = self.loss_function(levels, self.scale * torch.stack(maps))
        return terms

    def decode(self, outputs: dict[str, Any], batch: Batch) -> list[Prediction]:
        """Objects per voxel of each image's own grid; interpolation keeps the integral."""
        densities = outputs[HEAD].float().clamp_min(0) / self.scale
        return [
            prediction_of(image, self.classes, maps={HEAD: _to_image_grid(density.cpu(), placement)})
            for density, image, placement in zip(densities, batch.images_read, batch.placements, strict=True)
        ]

    def reference(self, batch: Batch) -> list[Prediction]:
        """The objects of the annotations."""
        return reference_objects(batch, self.ids, self.classes)


def density_of(
    centers: Float[Tensor, "n dims"], channels: Integer[Tensor, "n"], *, shape: tuple[int, ...], sigma_px: float
) -> Float[Tensor, "classes *spatial"]:
    """A Gaussian of sum one at each middle, added up in the channel of its class.

    Args:
        centers: Places in voxels; voxel i covers [i, i + 1).
        channels: Channel of each place.
        shape: Channels and voxels along each axis.
        sigma_px: Standard deviation in voxels.

    Returns:
        The map.
    """
    dims = len(shape) - 1
    along = []
    for axis in range(dims):
        places = torch.arange(shape[1 + axis], device=centers.device) + 0.5
        # A Gaussian so narrow that it vanishes at all voxels would have no sum.
        along.append((-((places - centers[:, axis, None]) ** 2) / (2 * sigma_px**2)).softmax(dim=1))
    of_class = nn.functional.one_hot(channels, shape[0]).to(centers.dtype)
    axes = _AXES[-dims:]
    return torch.einsum(f"nc,{','.join(f'n{axis}' for axis in axes)}->c{axes}", of_class, *along)


def _to_image_grid(
    density: Float[Tensor, "classes *network"], placement: Placement
) -> Float[np.ndarray, "classes *image"]:
    """Interpolated where the grids differ, and then scaled to the number of objects that it held."""
    axes = tuple(range(1, density.ndim))
    count = density.sum(dim=axes).numpy()
    maps = to_image_grid(density, placement)
    moved = maps.sum(axis=axes)
    factor = np.divide(count, moved, out=np.ones_like(moved), where=moved > 0)
    return maps * factor.reshape(-1, *[1] * len(axes))

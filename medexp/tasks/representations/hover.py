"""Objects by offsets: how far each voxel lies from the middle of its object, along each axis."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn.functional import conv2d

from medexp.core.errors import UsageError
from medexp.core.types import Kind
from medexp.tasks.representations.base import Representation

HEAD = "hover"
INSIDE = "hover_inside"


class Hover(Representation):
    """A map for each axis: the offset of a voxel from its object's centre of mass, -1 and 1 at the farthest voxels.

    The offsets before the centre are divided by the largest of them, and so are those behind it, so that from one of
    two objects that touch to the other a map falls from 1 to -1. Outside it is 0.

    Source: S. Graham et al., HoVer-Net: simultaneous segmentation and classification of nuclei in multi-tissue
    histology images, Medical Image Analysis 58 (2019): the mean squared error of the maps, with a factor of 1, and, of
    those voxels that lie in objects, of the derivative of each map along its own axis, with a factor of 2. The
    derivative is the authors' code's: a kernel of 5 pixels a side with the weights x_i / |x|^2.

    It is for images, as published: in volumes where objects touch on many sides the fall of perfect maps did not close
    around each of them.

    Args:
        spatial_dims: 2.
        weight: Factor on the mean squared error over the components of all annotated voxels.
        gradient_weight: Factor on that of the derivatives; 0 leaves it out.

    Raises:
        UsageError: The data are volumes, or a number is out of range.
    """

    gives = Kind.OFFSETS
    vectors = frozenset({HEAD})

    def __init__(self, *, spatial_dims: int, weight: float, gradient_weight: float) -> None:
        super().__init__()
        if spatial_dims != 2:
            raise UsageError(
                f"task.representation hover needs images of 2 axes, got spatial_dims={spatial_dims}; for volumes "
                "choose task/representation=flow or another"
            )
        if not weight > 0:
            raise UsageError(f"task.representation.weight needs a value above 0, got {weight}")
        if not gradient_weight >= 0:
            raise UsageError(f"task.representation.gradient_weight needs a value of at least 0, got {gradient_weight}")
        self.weight = weight
        self.gradient_weight = gradient_weight
        self.heads = {HEAD: spatial_dims}

    def targets(self, instances: Integer[np.ndarray, "*spatial"]) -> dict[str, Tensor]:
        """The maps under "hover", and under "hover_inside" 1 in objects."""
        inside = torch.from_numpy((instances > 0).astype(np.uint8))[None]
        return {HEAD: torch.from_numpy(_offsets(instances)), INSIDE: inside}

    def loss(
        self, levels: dict[str, list[Tensor]], targets: dict[str, Tensor], valid: Bool[Tensor, "batch 1 *spatial"]
    ) -> dict[str, Tensor]:
        """The squared errors of the finest maps, under "hover_mse" and "hover_gradient"."""
        said = levels[HEAD][0].float()
        # A derivative is linear: that of the error is the error of the derivatives, and no unknown voxel enters it.
        error = (said - targets[HEAD]) * valid
        inside = valid & (targets[INSIDE] > 0)
        steep = (_derivatives(error) ** 2 * inside).sum() / (inside.sum() * said.shape[1]).clamp(min=1)
        plain = (error**2).sum() / (valid.sum() * said.shape[1]).clamp(min=1)
        return {"hover_mse": self.weight * plain, "hover_gradient": self.gradient_weight * steep}

    def maps(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The maps, within [-1, 1]."""
        return {HEAD: outputs[HEAD].clamp(-1, 1)}


def _offsets(instances: Integer[np.ndarray, "*spatial"]) -> Float[np.ndarray, "dims *spatial"]:
    """Offset of each voxel along each axis as a share of the largest one on its side of the centre, 0 outside."""
    maps = np.zeros((instances.ndim, *instances.shape), dtype=np.float32)
    inside = instances > 0
    _, which = np.unique(instances[inside], return_inverse=True)
    voxels = np.bincount(which)
    for axis, places in enumerate(np.nonzero(inside)):
        offset = places - (np.bincount(which, places) / voxels)[which]
        farthest = np.zeros((2, len(voxels)))
        side = (offset > 0).astype(np.int64)
        np.maximum.at(farthest, (side, which), np.abs(offset))
        scale = farthest[side, which]
        maps[axis, inside] = np.divide(offset, scale, out=np.zeros_like(offset), where=scale > 0)
    return maps


def _derivatives(maps: Float[Tensor, "batch 2 *spatial"]) -> Float[Tensor, "batch 2 *spatial"]:
    """The derivative of map i along axis i, times 12; outside the image the maps are 0."""
    places = torch.stack(torch.meshgrid(torch.arange(-2.0, 3.0), torch.arange(-2.0, 3.0), indexing="ij"))
    kernels = places / (places**2).sum(dim=0).clamp(min=1)
    return conv2d(maps, kernels[:, None].to(maps), padding=2, groups=2)

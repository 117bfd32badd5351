"""Objects by distances: of each voxel to its object's border, or to its centre."""

from __future__ import annotations

import edt
import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from scipy import ndimage
from torch import Tensor

from medexp.core.errors import UsageError
from medexp.core.types import Kind
from medexp.tasks.representations._shares import shares
from medexp.tasks.representations.base import Representation

HEAD = "distance"


class Distance(Representation):
    """A map that is 1 in the middle of each object, falls to its border, and is 0 outside.

    With `distance_to="border"` it is the distance to the next voxel of another object or of the background, as a share
    of the largest one in the object; with "centre" one minus the distance to the object's centre of mass, as a share of
    the largest one. Shares, so that small objects have a peak as high as large ones.

    Sources: M. Bai and R. Urtasun, Deep watershed transform for instance segmentation, CVPR 2017, for distances to the
    border; P. Naylor et al., Segmentation of nuclei in histopathology images by deep regression of the distance map,
    IEEE Transactions on Medical Imaging 38 (2019), for their regression with a mean squared error.

    Args:
        spatial_dims: 2 or 3.
        distance_to: "border" or "centre".
        weight: Factor on the mean squared error over all annotated voxels.

    Raises:
        UsageError: A knob has no such value.
    """

    gives = Kind.DISTANCES

    def __init__(self, *, spatial_dims: int, distance_to: str, weight: float) -> None:
        super().__init__()
        if distance_to not in ("border", "centre"):
            raise UsageError(f"task.representation.distance_to needs border or centre, got {distance_to!r}")
        if not weight > 0:
            raise UsageError(f"task.representation.weight needs a value above 0, got {weight}")
        self.distance_to = distance_to
        self.weight = weight
        self.heads = {HEAD: 1}

    def targets(self, instances: Integer[np.ndarray, "*spatial"]) -> dict[str, Tensor]:
        """The map under "distance"."""
        if self.distance_to == "border":
            distance_px = edt.edt(np.ascontiguousarray(instances), black_border=False)
            # A single object that fills the patch has no border in it.
            of_object = shares(np.minimum(distance_px, max(instances.shape)), instances)
        else:
            of_object = (1 - shares(_to_centre_px(instances), instances)) * (instances > 0)
        return {HEAD: torch.from_numpy(of_object.astype(np.float32))[None]}

    def loss(
        self, levels: dict[str, list[Tensor]], targets: dict[str, Tensor], valid: Bool[Tensor, "batch 1 *spatial"]
    ) -> dict[str, Tensor]:
        """The squared error of the finest map, under "distance_mse"."""
        said = levels[HEAD][0].float()
        error = ((said - targets[HEAD]) ** 2 * valid).sum() / valid.sum().clamp(min=1)
        return {"distance_mse": self.weight * error}

    def maps(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The map, within [0, 1]."""
        return {HEAD: outputs[HEAD].clamp(0, 1)}


def _to_centre_px(instances: Integer[np.ndarray, "*spatial"]) -> Float[np.ndarray, "*spatial"]:
    """Distance of each voxel to the centre of mass of its object; what it is outside means nothing."""
    present = np.unique(instances)
    centres = np.zeros((int(instances.max(initial=0)) + 1, instances.ndim))
    centres[present] = ndimage.center_of_mass(np.ones(instances.shape), instances, present)
    places = np.moveaxis(np.indices(instances.shape), 0, -1)
    distance_px: np.ndarray = np.linalg.norm(places - centres[instances], axis=-1)
    return distance_px

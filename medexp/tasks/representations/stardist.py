"""Objects by star-convex polygons and polyhedra: how far the border lies in each of many directions."""

from __future__ import annotations

from collections.abc import Sequence

import edt
import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor
from torch.nn import functional

from medexp.core.errors import UsageError
from medexp.core.types import Kind
from medexp.tasks.representations._rays import circle, distances_along, in_voxels, spiral
from medexp.tasks.representations._shares import shares
from medexp.tasks.representations.base import Representation

PROBABILITY, DISTANCES = "star_probability", "star_distances"
_USUAL_RAYS = {2: 32, 3: 96}


class StarDist(Representation):
    """Distances to the border of a voxel's object along rays, and how near the voxel is to the object's middle.

    The object probability is the Euclidean distance to the next voxel of another object or of the background, as a
    share of the largest one in the object. Its loss is the binary cross-entropy over all annotated voxels; that of the
    distances is their mean absolute error over the annotated voxels of objects, weighted by the object probability.

    Rays start in a voxel's centre, in 2D at equal angles, in 3D in the directions of a Fibonacci lattice on the sphere.
    The edge of the image ends a ray, but is no border for the object probability.

    Sources: U. Schmidt et al., Cell detection with star-convex polygons, MICCAI 2018; M. Weigert et al., Star-convex
    polyhedra for 3D object detection and segmentation in microscopy, WACV 2020.

    Args:
        spatial_dims: 2 or 3.
        n_rays: Number of directions; None for 32 in 2D and 96 in 3D.
        anisotropy: Size of a voxel along each axis of the network's grid, in any unit, so that rays are equally dense
            in space; None for voxels as long as wide.
        probability_weight: Factor on the cross-entropy.
        distance_weight: Factor on the absolute error, which is in voxels.
        distance_scale_px: The network gives distances in units of so many voxels: about the radius of an object, so
            that its outputs are about 1 and it need not learn the scale first.

    Raises:
        UsageError: A number is out of range, or there is not one for each axis.
    """

    gives = Kind.STARS

    def __init__(
        self,
        *,
        spatial_dims: int,
        n_rays: int | None,
        anisotropy: Sequence[float] | None,
        probability_weight: float,
        distance_weight: float,
        distance_scale_px: float,
    ) -> None:
        super().__init__()
        factors = {
            "probability_weight": probability_weight,
            "distance_weight": distance_weight,
            "distance_scale_px": distance_scale_px,
        }
        for knob, factor in factors.items():
            if not factor > 0:
                raise UsageError(f"task.representation.{knob} needs a value above 0, got {factor}")
        self.probability_weight = probability_weight
        self.distance_weight = distance_weight
        self.distance_scale_px = distance_scale_px
        n_rays = _USUAL_RAYS[spatial_dims] if n_rays is None else n_rays
        if not n_rays > spatial_dims:
            raise UsageError(
                f"task.representation.n_rays needs at least {spatial_dims + 1} in {spatial_dims}D, got {n_rays}; fewer "
                "directions enclose nothing"
            )
        sizes = (1.0,) * spatial_dims if anisotropy is None else tuple(anisotropy)
        if len(sizes) != spatial_dims or not all(size > 0 for size in sizes):
            raise UsageError(
                f"task.representation.anisotropy needs {spatial_dims} values above 0, one for each axis, got "
                f"{list(sizes)}"
            )
        self.sizes = sizes
        self.rays = in_voxels(circle(n_rays) if spatial_dims == 2 else spiral(n_rays), sizes)
        self.heads = {PROBABILITY: 1, DISTANCES: n_rays}

    def targets(self, instances: Integer[np.ndarray, "*spatial"]) -> dict[str, Tensor]:
        """The object probability under "star_probability", and distances in voxels under "star_distances"."""
        distance = edt.edt(np.ascontiguousarray(instances), anisotropy=self.sizes, black_border=False)
        # A single object that fills the patch has no border in it.
        largest = max(size * length for size, length in zip(self.sizes, instances.shape, strict=True))
        probability = shares(np.minimum(distance, largest), instances)
        return {
            PROBABILITY: torch.from_numpy(probability.astype(np.float32))[None],
            DISTANCES: torch.from_numpy(distances_along(instances, self.rays)),
        }

    def loss(
        self, levels: dict[str, list[Tensor]], targets: dict[str, Tensor], valid: Bool[Tensor, "batch 1 *spatial"]
    ) -> dict[str, Tensor]:
        """Cross-entropy and absolute error of the finest maps, under "star_probability" and "star_distances"."""
        logits = levels[PROBABILITY][0].float()
        said = levels[DISTANCES][0].float() * self.distance_scale_px
        entropy = functional.binary_cross_entropy_with_logits(logits, targets[PROBABILITY], reduction="none")
        error = (said - targets[DISTANCES]).abs().mean(dim=1, keepdim=True)
        weight = targets[PROBABILITY] * valid
        return {
            PROBABILITY: self.probability_weight * (entropy * valid).sum() / valid.sum().clamp(min=1),
            DISTANCES: self.distance_weight * (error * weight).sum() / weight.sum().clamp(min=1e-6),
        }

    def maps(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The object probability, and distances that are not negative."""
        distances = outputs[DISTANCES].clamp(min=0) * self.distance_scale_px
        return {PROBABILITY: outputs[PROBABILITY].sigmoid(), DISTANCES: distances}

    def directions(self) -> dict[str, Float[np.ndarray, "rays dims"]]:
        """The unit vector of each ray."""
        return {DISTANCES: self.rays}

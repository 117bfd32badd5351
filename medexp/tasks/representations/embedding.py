"""Objects by embeddings: a vector for each voxel, alike within an object and far between objects."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from medexp.core.errors import UsageError
from medexp.core.types import Kind
from medexp.tasks.representations.base import Representation

HEAD = "embedding"


class Embedding(Representation):
    """A vector for each voxel, learned with the discriminative loss; where there is no object it means nothing.

    With mu_c the mean vector of object c of C objects, x_i the vectors of its N_c voxels, and [z]+ = max(z, 0), the
    terms of an image are

        variance: 1/C sum_c 1/N_c sum_i [|mu_c - x_i| - delta_var]+^2
        distance: 1/(C (C - 1)) sum_(a != b) [2 delta_dist - |mu_a - mu_b|]+^2
        size:     1/C sum_c |mu_c|

    and the loss is their sum with the factors alpha, beta and gamma, as a mean over the images that have an object.

    Source: B. De Brabandere, D. Neven and L. Van Gool, Semantic instance segmentation with a discriminative loss
    function, arXiv 1708.02551 (2017), equations 1 to 4.

    Args:
        spatial_dims: 2 or 3.
        n_dims: Components of a vector.
        delta_var: Distance of a vector from its object's mean up to which it costs nothing.
        delta_dist: Half the distance of two means from which on they cost nothing; above `delta_var`.
        alpha: Factor on the variance.
        beta: Factor on the distance.
        gamma: Factor on the size; 0 leaves it out.

    Raises:
        UsageError: A number is out of range.
    """

    gives = Kind.EMBEDDINGS

    def __init__(
        self,
        *,
        spatial_dims: int,
        n_dims: int,
        delta_var: float,
        delta_dist: float,
        alpha: float,
        beta: float,
        gamma: float,
    ) -> None:
        super().__init__()
        for name, value in {"n_dims": n_dims, "delta_var": delta_var, "alpha": alpha, "beta": beta}.items():
            if not value > 0:
                raise UsageError(f"task.representation.{name} needs a value above 0, got {value}")
        if not delta_dist > delta_var:
            raise UsageError(
                f"task.representation.delta_dist needs a value above delta_var={delta_var}, got {delta_dist}; "
                "otherwise the vectors of two objects may be the same"
            )
        if not gamma >= 0:
            raise UsageError(f"task.representation.gamma needs a value of at least 0, got {gamma}")
        self.delta_var, self.delta_dist = delta_var, delta_dist
        self.weights = {"variance": alpha, "distance": beta, "size": gamma}
        self.heads = {HEAD: n_dims}

    def targets(self, instances: Integer[np.ndarray, "*spatial"]) -> dict[str, Tensor]:
        """The ids of the objects under "embedding", 0 where there is none."""
        return {HEAD: torch.from_numpy(np.ascontiguousarray(instances, dtype=np.int32))[None]}

    def loss(
        self, levels: dict[str, list[Tensor]], targets: dict[str, Tensor], valid: Bool[Tensor, "batch 1 *spatial"]
    ) -> dict[str, Tensor]:
        """The three terms of the finest map; their names begin with "embedding_"."""
        said = levels[HEAD][0].float()
        ids = torch.where(valid, targets[HEAD], 0)
        terms = [_terms(each, of[0], self.delta_var, self.delta_dist) for each, of in zip(said, ids, strict=True)]
        images = max(sum(bool(of.any()) for of in ids), 1)
        total = torch.stack(terms).sum(dim=0) / images
        return {f"embedding_{name}": weight * total[i] for i, (name, weight) in enumerate(self.weights.items())}

    def maps(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The vectors."""
        return {HEAD: outputs[HEAD]}


def _terms(
    said: Float[Tensor, "n_dims *spatial"], ids: Integer[Tensor, "*spatial"], delta_var: float, delta_dist: float
) -> Float[Tensor, "3"]:
    """Variance, distance and size of an image; zero, with a gradient, where it has no object."""
    inside = ids > 0
    vectors = said[:, inside].T
    present, which = ids[inside].unique(return_inverse=True)
    if not len(present):
        return said.sum() * torch.zeros(3, device=said.device)
    voxels = torch.bincount(which, minlength=len(present))[:, None]
    means = vectors.new_zeros(len(present), len(said)).index_add(0, which, vectors) / voxels
    away = torch.linalg.vector_norm(vectors - means[which], dim=1)
    share = 1 / voxels[which, 0] / len(present)
    variance = (share * (away - delta_var).clamp(min=0) ** 2).sum()
    size = torch.linalg.vector_norm(means, dim=1).mean()
    return torch.stack([variance, _distance(means, delta_dist), size])


def _distance(means: Float[Tensor, "objects n_dims"], delta_dist: float) -> Float[Tensor, ""]:
    """The distance term of the means of an image's objects; 0 for a single one."""
    first, second = torch.triu_indices(len(means), len(means), offset=1, device=means.device)
    between = torch.linalg.vector_norm(means[first] - means[second], dim=1)
    return ((2 * delta_dist - between).clamp(min=0) ** 2).sum() / max(len(first), 1)

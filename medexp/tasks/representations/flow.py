"""Objects by flows: a direction in each voxel that leads to the middle of its object."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Integer
from torch import Tensor

from medexp.core.errors import UsageError
from medexp.core.heat_flow import heat_flows
from medexp.core.types import Kind
from medexp.tasks.representations.base import Representation

HEAD = "flow"


class Flow(Representation):
    """Unit vectors along which heat flows back to its source in the middle of each object, and 0 outside.

    Source: C. Stringer et al., Cellpose: a generalist algorithm for cellular segmentation, Nature Methods 18 (2021):
    the network learns 5 times the vectors, with half the mean squared error as their loss.

    Args:
        spatial_dims: 2 or 3.
        scale: The network learns so many times the vectors.
        weight: Factor on the mean squared error over the components of all annotated voxels.

    Raises:
        UsageError: A number is out of range.
    """

    gives = Kind.FLOWS
    vectors = frozenset({HEAD})

    def __init__(self, *, spatial_dims: int, scale: float, weight: float) -> None:
        super().__init__()
        for name, value in {"scale": scale, "weight": weight}.items():
            if not value > 0:
                raise UsageError(f"task.representation.{name} needs a value above 0, got {value}")
        self.scale = scale
        self.weight = weight
        self.heads = {HEAD: spatial_dims}

    def targets(self, instances: Integer[np.ndarray, "*spatial"]) -> dict[str, Tensor]:
        """The vectors under "flow"."""
        return {HEAD: torch.from_numpy(heat_flows(instances))}

    def loss(
        self, levels: dict[str, list[Tensor]], targets: dict[str, Tensor], valid: Bool[Tensor, "batch 1 *spatial"]
    ) -> dict[str, Tensor]:
        """The squared error of the finest map, under "flow_mse"."""
        said = levels[HEAD][0].float()
        squared = (said - self.scale * targets[HEAD]) ** 2 * valid
        error = squared.sum() / (valid.sum() * said.shape[1]).clamp(min=1)
        return {"flow_mse": self.weight * error}

    def maps(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The vectors, of a length of about 1 inside objects."""
        return {HEAD: outputs[HEAD] / self.scale}

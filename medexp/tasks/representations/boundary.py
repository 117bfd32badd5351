"""Objects by their borders: inside, border and background."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Integer
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.core.types import UNANNOTATED, Kind
from medexp.tasks._borders import border_of
from medexp.tasks.representations.base import Representation

HEAD = "border"
BACKGROUND, INSIDE, BORDER = range(3)


class Boundary(Representation):
    """Three exclusive classes: background, inside of an object, and border of an object.

    The border of an object are those of its voxels from whose centre the centre of a voxel of another object or of the
    background lies no farther than `width_px`; the edge of the image is no border.

    Source: J. C. Caicedo et al., Evaluation of deep learning strategies for nucleus segmentation in fluorescence
    images, Cytometry A 95 (2019), the "U-Net 3-class" to which U. Schmidt et al., Cell detection with star-convex
    polygons, MICCAI 2018, compare.

    Args:
        spatial_dims: 2 or 3.
        width_px: Width of a border, in voxels of the network's grid.
        loss: Terms by name for a list of logits of the three classes, finest first, and a target of class indices.
        weight: Factor on the loss.

    Raises:
        UsageError: A number is out of range.
    """

    gives = Kind.BORDERS

    def __init__(self, *, spatial_dims: int, width_px: float, loss: nn.Module, weight: float) -> None:
        super().__init__()
        if not weight > 0:
            raise UsageError(f"task.representation.weight needs a value above 0, got {weight}")
        if not width_px >= 1:
            raise UsageError(
                f"task.representation.width_px needs a value >= 1, got {width_px}; at 1 voxels by their face"
            )
        self.width_px = width_px
        self.loss_function = loss
        self.weight = weight
        self.heads = {HEAD: 3}

    def targets(self, instances: Integer[np.ndarray, "*spatial"]) -> dict[str, Tensor]:
        """Class index of each voxel under "border": 0 background, 1 inside, 2 border."""
        border = border_of(instances, self.width_px)
        classes = np.where(border, BORDER, np.where(instances > 0, INSIDE, BACKGROUND)).astype(np.int16)
        return {HEAD: torch.from_numpy(classes)[None]}

    def loss(
        self, levels: dict[str, list[Tensor]], targets: dict[str, Tensor], valid: Bool[Tensor, "batch 1 *spatial"]
    ) -> dict[str, Tensor]:
        """The terms of the configured loss over all levels; their names begin with "border_"."""
        target = torch.where(valid, targets[HEAD], UNANNOTATED)
        terms: dict[str, Tensor] = self.loss_function(levels[HEAD], target)
        return {f"border_{name}": self.weight * term for name, term in terms.items()}

    def maps(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The probability of a border."""
        return {HEAD: outputs[HEAD].softmax(dim=1)[:, BORDER : BORDER + 1]}

"""Instance segmentation by dense maps: each object gets an id of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import edt
import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.core.types import UNANNOTATED, Annotation, Batch, Kind, Prediction
from medexp.tasks._known import annotated, instances_of, instances_of_classes
from medexp.tasks.semantic import HEAD, SemanticSegmentation, levels_of, to_image_grid

BORDER = "border"


class InstanceSplit(SemanticSegmentation):
    """Semantic classes whose connected parts become the instances; objects of a class that touch become one.

    The network learns what it learns for `SemanticSegmentation`; what is judged are instances.

    Args:
        labels: Name of each label id of the dataset; 0 is the background.
        loss: Terms by name for a list of logits, finest first, and a target.
        regions: None; the instances of overlapping regions have no place in one map.
        ignore_index: Label id of voxels that nobody annotated; objects with this label are no objects.
        softmax: True; the losses read it.
        sigmoid: False; the losses read it.

    Raises:
        UsageError: There are regions, or the classes do not exclude each other.
    """

    judged = Kind.INSTANCES
    usual_metrics = ("pq",)

    def __init__(
        self,
        *,
        labels: Mapping[int, str],
        loss: nn.Module,
        regions: Mapping[str, Sequence[int]] | None,
        ignore_index: int | None,
        softmax: bool,
        sigmoid: bool,
    ) -> None:
        if regions is not None:
            raise UsageError("task.regions overlap, and instances have one map of ids; set task.regions=null")
        super().__init__(
            labels=labels, loss=loss, regions=None, ignore_index=ignore_index, softmax=softmax, sigmoid=sigmoid
        )

    def reference(self, batch: Batch) -> list[Prediction]:
        """Masks, instances and objects of the annotations; voxels of `ignore_index` are marked as not valid."""
        references = []
        for reference, (_, annotation) in zip(super().reference(batch), annotated(batch), strict=True):
            instances, objects = instances_of_classes(annotation, self.ids, ignored=self.ignore_index)
            references.append(replace(reference, instances=instances, objects=objects))
        return references


class InstanceBoundary(InstanceSplit):
    """Semantic classes and the borders of the objects, so that objects that touch can be told apart.

    A second head learns the border of each object: those of its voxels from whose centre the centre of a voxel of
    another object or of the background lies no farther than `border_width_px`; the edge of the image is no border.

    Source: the boundary class of J. C. Caicedo et al., Evaluation of deep learning strategies for nucleus segmentation
    in fluorescence images, Cytometry A 95 (2019), after O. Ronneberger et al., U-Net, MICCAI 2015, who weigh the voxels
    between touching cells. There the boundary is a third class beside inside and background; here it is a map of its
    own, so that there may be several classes, and lies inside the objects, so that they keep their size.

    Args:
        labels: Name of each label id of the dataset; 0 is the background.
        loss: Terms by name for a list of semantic logits, finest first, and a target.
        border_loss: The same for the border, a single region by sigmoid.
        border_weight: Factor on the border's loss.
        border_width_px: Width of a border, in voxels of the network's grid.
        regions: None; the instances of overlapping regions have no place in one map.
        ignore_index: Label id of voxels that nobody annotated; objects with this label are no objects.
        softmax: True; the losses read it.
        sigmoid: False; the losses read it.

    Raises:
        UsageError: There are regions, the classes do not exclude each other, or a number is out of range.
    """

    gives = Kind.BORDERS

    def __init__(
        self,
        *,
        labels: Mapping[int, str],
        loss: nn.Module,
        border_loss: nn.Module,
        border_weight: float,
        border_width_px: float,
        regions: Mapping[str, Sequence[int]] | None,
        ignore_index: int | None,
        softmax: bool,
        sigmoid: bool,
    ) -> None:
        super().__init__(
            labels=labels, loss=loss, regions=regions, ignore_index=ignore_index, softmax=softmax, sigmoid=sigmoid
        )
        if not border_weight > 0:
            raise UsageError(f"task.border_weight needs a value above 0, got {border_weight}")
        if not border_width_px >= 1:
            raise UsageError(
                f"task.border_width_px needs a value >= 1, got {border_width_px}; at 1 voxels by their face"
            )
        self.border_loss_function = border_loss
        self.border_weight = border_weight
        self.border_width_px = border_width_px
        self.heads = {**self.heads, BORDER: 1}

    def sample_targets(self, reference: Annotation) -> dict[str, Tensor]:
        """Class index and border, each (1, *spatial); `UNANNOTATED` where the mask is `ignore_index`."""
        targets = super().sample_targets(reference)
        instances, _ = instances_of(reference)
        border = torch.from_numpy(_borders(instances, self.border_width_px).astype(np.int16))[None]
        border[targets[HEAD] == UNANNOTATED] = UNANNOTATED
        return {**targets, BORDER: border}

    def loss(self, outputs: dict[str, Any], targets: dict[str, Any]) -> dict[str, Tensor]:
        """The terms of both losses over all levels of deep supervision; those of the border begin with "border_"."""
        border = self.border_loss_function(levels_of(outputs, BORDER), targets[BORDER])
        weighted = {f"border_{name}": self.border_weight * term for name, term in border.items()}
        return {**super().loss(outputs, targets), **weighted}

    def decode(self, outputs: dict[str, Tensor], batch: Batch) -> list[Prediction]:
        """Probabilities of classes and of the border on each image's own grid."""
        borders = outputs[BORDER].float().sigmoid()
        return [
            replace(prediction, maps={BORDER: to_image_grid(border.cpu(), placement)})
            for prediction, border, placement in zip(
                super().decode(outputs, batch), borders, batch.placements, strict=True
            )
        ]


def _borders(instances: Integer[np.ndarray, "*spatial"], width_px: float) -> np.ndarray:
    """Where an object's voxel lies within a width of a voxel that is not of this object."""
    distance_px = edt.edt(np.ascontiguousarray(instances))  # of each object's voxels to the next voxel of another id
    border: np.ndarray = (instances > 0) & (distance_px <= width_px * (1 + 1e-6))
    return border

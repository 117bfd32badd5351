"""Instance segmentation by splitting a semantic one: each object gets an id of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.core.types import UNANNOTATED, Annotation, Batch, Kind, Prediction
from medexp.tasks._borders import border_of
from medexp.tasks._known import annotated, instances_of, instances_of_classes
from medexp.tasks.semantic import HEAD, SemanticSegmentation


class InstanceSplit(SemanticSegmentation):
    """Semantic classes whose connected parts become the instances; objects of a class that touch become one.

    The network learns what it learns for `SemanticSegmentation`; what is judged are instances. Where objects touch, it
    may learn their inside alone: what lies within `border_px` of another object or of the background is background to
    it, so that its objects come apart, and smaller by so much.

    Args:
        labels: Name of each label id of the dataset; 0 is the background.
        loss: Terms by name for a list of logits, finest first, and a target.
        regions: None; the instances of overlapping regions have no place in one map.
        ignore_index: Label id of voxels that nobody annotated; objects with this label are no objects.
        softmax: True; the losses read it.
        sigmoid: False; the losses read it.
        border_px: Width of the border that is learned as background, in voxels of the network's grid; 0 for whole
            objects.

    Raises:
        UsageError: There are regions, the classes do not exclude each other, or the border is narrower than a voxel.
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
        border_px: float = 0.0,
    ) -> None:
        if regions is not None:
            raise UsageError("task.regions overlap, and instances have one map of ids; set task.regions=null")
        super().__init__(
            labels=labels, loss=loss, regions=None, ignore_index=ignore_index, softmax=softmax, sigmoid=sigmoid
        )
        if border_px != 0 and not border_px >= 1:
            raise UsageError(f"task.border_px needs 0 or a value >= 1, got {border_px}; at 1 voxels by their face")
        self.border_px = border_px

    def sample_targets(self, reference: Annotation) -> dict[str, Tensor]:
        """What semantic segmentation learns, and background in the border of each object."""
        targets = super().sample_targets(reference)
        if self.border_px:
            instances, _ = instances_of(reference)
            border = torch.from_numpy(border_of(instances, self.border_px))[None]
            target = targets[HEAD]
            targets[HEAD] = torch.where(border & (target != UNANNOTATED), 0, target)
        return targets

    def reference(self, batch: Batch) -> list[Prediction]:
        """Masks, instances and objects of the annotations; voxels of `ignore_index` are marked as not valid."""
        references = []
        for reference, (_, annotation) in zip(super().reference(batch), annotated(batch), strict=True):
            instances, objects = instances_of_classes(annotation, self.ids, ignored=self.ignore_index)
            references.append(replace(reference, instances=instances, objects=objects))
        return references

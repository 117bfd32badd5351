"""Instance segmentation by splitting a semantic one: each object gets an id of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from medexp.core.errors import UsageError
from medexp.core.types import Batch, Kind, Prediction
from medexp.tasks._known import annotated, instances_of_classes
from medexp.tasks.semantic import SemanticSegmentation


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

"""Instance segmentation by the parallel strategy: classes and maps of objects are learned together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.core.types import UNANNOTATED, Annotation, Batch, Prediction
from medexp.tasks._known import instances_of
from medexp.tasks.instance import InstanceSplit
from medexp.tasks.representations.base import Representation
from medexp.tasks.semantic import HEAD, levels_of, to_image_grid


class ParallelInstances(InstanceSplit):
    """Semantic classes, and beside them maps by which their objects are told apart.

    Args:
        labels: Name of each label id of the dataset; 0 is the background.
        spatial_dims: 2 or 3.
        loss: Terms by name for a list of semantic logits, finest first, and a target.
        semantic_weight: Factor on them; the representation has weights of its own.
        representation: Makes the representation of objects, given `spatial_dims`.
        regions: None; the instances of overlapping regions have no place in one map.
        ignore_index: Label id of voxels that nobody annotated; objects with this label are no objects.
        softmax: True; the losses read it.
        sigmoid: False; the losses read it.

    Raises:
        UsageError: There are regions, the classes do not exclude each other, or a number is out of range.
    """

    def __init__(
        self,
        *,
        labels: Mapping[int, str],
        spatial_dims: int,
        loss: nn.Module,
        semantic_weight: float,
        representation: Callable[..., Representation],
        regions: Mapping[str, Sequence[int]] | None,
        ignore_index: int | None,
        softmax: bool,
        sigmoid: bool,
    ) -> None:
        super().__init__(
            labels=labels, loss=loss, regions=regions, ignore_index=ignore_index, softmax=softmax, sigmoid=sigmoid
        )
        if not semantic_weight > 0:
            raise UsageError(f"task.semantic_weight needs a value above 0, got {semantic_weight}")
        self.semantic_weight = semantic_weight
        self.representation = representation(spatial_dims=spatial_dims)
        self.gives = self.representation.gives
        self.heads = {**self.heads, **self.representation.heads}

    def sample_targets(self, reference: Annotation) -> dict[str, Tensor]:
        """Class index (1, *spatial), `UNANNOTATED` where the mask is `ignore_index`, and the representation's targets.

        Objects that nobody annotated are none for the representation.
        """
        targets = super().sample_targets(reference)
        instances, _ = instances_of(reference)
        annotated = np.where(targets[HEAD][0].numpy() == UNANNOTATED, 0, instances)
        return {**targets, **self.representation.targets(annotated)}

    def loss(self, outputs: dict[str, Any], targets: dict[str, Any]) -> dict[str, Tensor]:
        """The weighted terms of the semantic loss and of the representation."""
        semantic = {name: self.semantic_weight * term for name, term in super().loss(outputs, targets).items()}
        levels = {head: levels_of(outputs, head) for head in self.representation.heads}
        return {**semantic, **self.representation.loss(levels, targets, targets[HEAD] != UNANNOTATED)}

    def decode(self, outputs: dict[str, Tensor], batch: Batch) -> list[Prediction]:
        """Probabilities of classes and the representation's maps on each image's own grid.

        Vectors and directions are turned and stretched with the grid.
        """
        soft = super().decode(outputs, batch)
        maps = self.representation.maps({head: outputs[head].float() for head in self.representation.heads})
        directions = self.representation.directions()
        predictions = []
        for index, (prediction, placement) in enumerate(zip(soft, batch.placements, strict=True)):
            to_image, _ = placement.to_image()
            placed = {name: to_image_grid(each[index].cpu(), placement) for name, each in maps.items()}
            for name in self.representation.vectors:
                placed[name] = np.einsum("ij,j...->i...", to_image, placed[name]).astype(np.float32)
            turned = {name: vectors @ to_image.T for name, vectors in directions.items()}
            predictions.append(replace(prediction, maps=placed, directions=turned))
        return predictions

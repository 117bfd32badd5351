"""Semantic segmentation: each voxel gets a class, or each of several overlapping regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Placement
from medexp.core.resample import resize_linear
from medexp.core.types import UNANNOTATED, Annotation, Batch, Image, Kind, Prediction, StructureClass
from medexp.tasks._known import annotated, prediction_of
from medexp.tasks.base import Task

HEAD = "semantic"


class SemanticSegmentation(Task):
    """Classes with background by softmax, or overlapping regions by sigmoid (as in BraTS).

    Args:
        labels: Name of each label id of the dataset; 0 is the background.
        loss: Terms by name for a list of logits, finest first, and a target.
        regions: Label ids of each overlapping region by its name; None for exclusive classes.
        ignore_index: Label id of voxels that nobody annotated; they count neither in the loss nor in the metrics.
        softmax: The classes exclude each other; the losses read it.
        sigmoid: The regions overlap; the losses read it.
    """

    gives = Kind.PROBABILITIES
    judged = Kind.MASK
    usual_metrics: tuple[str, ...] = ("dice", "hd95")

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
        super().__init__()
        if softmax == sigmoid or sigmoid != (regions is not None):
            raise UsageError(
                "overlapping regions need task.regions and sigmoid, exclusive classes softmax and no regions; "
                "choose task=semantic or task=semantic_regions"
            )
        self.loss_function = loss
        self.ignore_index = ignore_index
        self.ids = sorted(label for label in labels if label not in (0, ignore_index))
        self.regions = None if regions is None else {name: tuple(ids) for name, ids in regions.items()}
        self._check_regions()
        if self.regions is None:
            self.classes = tuple(StructureClass(labels[label], 0, i + 1) for i, label in enumerate(self.ids))
        else:
            self.classes = tuple(StructureClass(name, layer, 1) for layer, name in enumerate(self.regions))
        self.heads = {HEAD: len(self.classes) + (1 if self.regions is None else 0)}

    def _check_regions(self) -> None:
        if self.ignore_index == 0:
            raise UsageError(
                "task.ignore_index=0 is the background; it needs the label id of unannotated voxels or null"
            )
        if not self.ids:
            raise UsageError("the dataset declares no label beside the background; nothing can be segmented")
        if self.regions is not None and not self.regions:
            raise UsageError("task.regions names no region; give label ids by name, e.g. {whole: [1, 2], core: [2]}")
        for name, ids in (self.regions or {}).items():
            unknown = sorted(set(ids) - set(self.ids))
            if unknown or not ids:
                raise UsageError(
                    f"task.regions.{name} needs labels that the dataset declares ({self.ids}), got {list(ids)}"
                )

    def sample_targets(self, reference: Annotation) -> dict[str, Tensor]:
        """Class index (1, *spatial), or regions (regions, *spatial); `UNANNOTATED` where the mask is `ignore_index`."""
        mask = _mask_of(reference)
        layers = self._layers(mask)
        if self.ignore_index is not None:
            layers[:, mask == self.ignore_index] = UNANNOTATED
        return {HEAD: torch.from_numpy(layers)}

    def loss(self, outputs: dict[str, Any], targets: dict[str, Any]) -> dict[str, Tensor]:
        """The terms of the configured loss over all levels of deep supervision."""
        terms: dict[str, Tensor] = self.loss_function(levels_of(outputs, HEAD), targets[HEAD])
        return terms

    def decode(self, outputs: dict[str, Tensor], batch: Batch) -> list[Prediction]:
        """Probabilities on each image's own grid, interpolated linearly where the grids differ."""
        logits = outputs[HEAD].float()
        probabilities = logits.softmax(dim=1) if self.regions is None else logits.sigmoid()
        # What the network never saw is background: the first of exclusive classes, or no region at all.
        outside = np.zeros(probabilities.shape[1])
        outside[0] = self.regions is None
        return [
            self._prediction(image, probabilities=to_image_grid(maps.cpu(), placement, outside=outside))
            for maps, image, placement in zip(probabilities, batch.images_read, batch.placements, strict=True)
        ]

    def reference(self, batch: Batch) -> list[Prediction]:
        """The masks of the annotations; voxels of `ignore_index` are marked as not valid."""
        references = []
        for image, annotation in annotated(batch):
            mask = _mask_of(annotation)
            valid = None if self.ignore_index is None else mask != self.ignore_index
            references.append(self._prediction(image, mask=self._layers(mask), valid=valid))
        return references

    def _prediction(self, image: Image, **content: Any) -> Prediction:
        return prediction_of(image, self.classes, exclusive=self.regions is None, **content)

    def _layers(self, mask: Integer[np.ndarray, "*spatial"]) -> Integer[np.ndarray, "layers *spatial"]:
        """Label ids as layers: one of class indices, or one of 0 and 1 per region; 0 where the id is `ignore_index`."""
        if self.regions is None:
            layers = np.zeros((1, *mask.shape), dtype=np.int16)
            for index, label in enumerate(self.ids, start=1):
                layers[0][mask == label] = index
        else:
            layers = np.stack([np.isin(mask, ids) for ids in self.regions.values()]).astype(np.int16)
        return layers


def _mask_of(annotation: Annotation) -> Integer[np.ndarray, "*spatial"]:
    if annotation.mask is None:
        raise DataError(
            "semantic segmentation needs a mask, and the dataset gives none; choose another task or dataset"
        )
    return annotation.mask


def levels_of(outputs: dict[str, Any], head: str) -> list[Tensor]:
    """The maps of one head, the finest first, then those of deep supervision."""
    return [outputs[head], *(level[head] for level in outputs.get("deep_supervision", ()))]


def to_image_grid(
    maps: Float[Tensor, "channels *network"],
    placement: Placement,
    *,
    outside: float | Float[np.ndarray, "channels"] = 0.0,
) -> Float[np.ndarray, "channels *image"]:
    """Maps on the network's grid as maps on the image's own, interpolated linearly where the grids differ.

    Args:
        maps: Values on the network's grid.
        placement: How it lies on the image's grid.
        outside: Value of what was cropped away, the same in each channel or one for each.

    Returns:
        Values on the image's grid.
    """
    oriented = resize_linear(maps, placement.oriented_shape).numpy()
    return np.ascontiguousarray(placement.unorient(oriented, outside=outside))

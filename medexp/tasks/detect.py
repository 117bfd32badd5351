"""Instance segmentation by detection: boxes first, then a mask inside each."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.core.geometry import Placement
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Batch, Image, Kind, Prediction
from medexp.tasks._known import annotated, classes_of, instances_of_classes, prediction_of
from medexp.tasks.base import Task
from medexp.tasks.semantic import to_image_grid

HEAD = "objects"


class InstanceDetection(Task):
    """Objects as a two-stage detector finds them, which computes its losses inside its forward.

    Masks may overlap and instances may not: the surer object keeps the voxels that two of them claim.

    Args:
        labels: Name of each label id of the dataset; 0 is the background.
        loss: Weighs the detector's terms.
        mask_threshold: Probability from which on a voxel belongs to an object.
        score_threshold: Objects with a lower score are left out of what is judged.
        least_visible: Share of its voxels that an object must keep beside surer ones.
    """

    gives = Kind.INSTANCES
    judged = Kind.INSTANCES
    usual_metrics = ("pq",)
    dense = False

    def __init__(
        self,
        *,
        labels: Mapping[int, str],
        loss: nn.Module,
        mask_threshold: float,
        score_threshold: float,
        least_visible: float,
    ) -> None:
        super().__init__()
        knobs = {"mask_threshold": mask_threshold, "score_threshold": score_threshold, "least_visible": least_visible}
        for name, value in knobs.items():
            if not 0 <= value <= 1:
                raise UsageError(f"task.{name} needs a value in [0, 1], got {value}")
        self.loss_function = loss
        self.mask_threshold = mask_threshold
        self.score_threshold = score_threshold
        self.least_visible = least_visible
        self.ids, self.classes = classes_of(labels)
        self.heads = {HEAD: len(self.classes) + 1}

    def sample_targets(self, reference: Annotation) -> dict[str, Any]:
        """Boxes (n, 4) as x1, y1, x2, y2, labels (n) from 1 on and masks (n, rows, columns); n may be 0."""
        instances, objects = instances_of_classes(reference, self.ids)
        own = torch.from_numpy(np.arange(1, len(objects) + 1, dtype=np.int32))[:, None, None]
        boxes = objects.boxes[:, [1, 0, 3, 2]]
        return {
            HEAD: {
                "boxes": torch.from_numpy(boxes.astype(np.float32)),
                "labels": torch.from_numpy(objects.labels),
                "masks": (torch.from_numpy(instances)[None] == own).to(torch.uint8),
            }
        }

    def forward(self, model: nn.Module, images: Tensor, targets: dict[str, Any] | None = None) -> dict[str, Any]:
        """The detector's loss terms where there are targets, else what it finds.

        Args:
            model: A detector that takes targets.
            images: The images.
            targets: Of each image, under "objects", in training.

        Returns:
            A mapping with "losses" or "objects".

        Raises:
            UsageError: The model takes no targets, so that it has no losses.
        """
        if targets is None:
            outputs: dict[str, Any] = model(images)
        elif "targets" in inspect.signature(model.forward).parameters:
            outputs = model(images, targets[HEAD])
        else:
            raise UsageError(
                f"task=instance/detect needs a network that computes its losses itself, and {type(model).__name__} "
                "does not; choose model=mask_rcnn"
            )
        return outputs

    def loss(self, outputs: dict[str, Any], targets: dict[str, Any]) -> dict[str, Tensor]:
        """The detector's terms as the configured loss weighs them."""
        terms: dict[str, Tensor] = self.loss_function(outputs["losses"])
        return terms

    def decode(self, outputs: dict[str, Any], batch: Batch) -> list[Prediction]:
        """Instances on each image's own grid, the surest first."""
        predictions = []
        for found, image, placement in zip(outputs[HEAD], batch.images_read, batch.placements, strict=True):
            sure = found["scores"] >= self.score_threshold
            masks = _on_image_grid(found["masks"][sure, 0].cpu(), placement)
            labels, scores = found["labels"][sure].cpu().numpy(), found["scores"][sure].cpu().numpy()
            instances, kept = _without_overlap(masks >= self.mask_threshold, scores, least_visible=self.least_visible)
            boxes = Objects.of_instances(instances, dict(enumerate(labels[kept].tolist(), start=1))).boxes
            objects = Objects.of(boxes, labels[kept], scores[kept])
            predictions.append(self._prediction(image, instances, objects))
        return predictions

    def reference(self, batch: Batch) -> list[Prediction]:
        """The instances of the annotations."""
        return [
            self._prediction(image, *instances_of_classes(annotation, self.ids))
            for image, annotation in annotated(batch)
        ]

    def _prediction(self, image: Image, instances: Integer[np.ndarray, "*spatial"], objects: Objects) -> Prediction:
        mask = np.concatenate([[0], objects.labels]).astype(np.int16)[instances][None]
        return prediction_of(image, self.classes, mask=mask, instances=instances, objects=objects)


def _on_image_grid(masks: Float[Tensor, "n *padded"], placement: Placement) -> Float[np.ndarray, "n *image"]:
    """Masks on the image's own grid, without what was added to the network's grid."""
    inside = (slice(None), *(slice(size) for size in placement.resized_shape))
    if len(masks) == 0:
        return np.zeros((0, *placement.image_shape), dtype=np.float32)
    return to_image_grid(masks[inside], placement)


def _without_overlap(
    masks: np.ndarray, scores: Float[np.ndarray, "n"], *, least_visible: float
) -> tuple[Integer[np.ndarray, "*spatial"], Integer[np.ndarray, "kept"]]:
    """One map of instances, and which mask is instance 1, 2, ...: a voxel belongs to the surest mask that covers it."""
    instances = np.zeros(masks.shape[1:], dtype=np.int32)
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        visible = masks[index] & (instances == 0)
        count = np.count_nonzero(visible)
        if count == 0 or count < least_visible * np.count_nonzero(masks[index]):
            continue
        kept.append(int(index))
        instances[visible] = len(kept)
    return instances, np.array(kept, dtype=np.int64)

"""Instance segmentation by detection: boxes first, then a mask inside each."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Batch, Image, Kind, Prediction
from medexp.tasks._known import annotated, classes_of, instances_of_classes, prediction_of
from medexp.tasks._masks_in_boxes import instances_of_masks
from medexp.tasks.base import Task

HEAD = "objects"


class InstanceDetection(Task):
    """Objects as a detector finds them that computes its losses inside its forward: boxes, and a mask inside each.

    Boxes have the lower ends along all axes, then the upper ends, and a mask is a grid of any size that fills its box;
    it is brought to the image's own grid here, one after the other. Masks may overlap and instances may not: the surer
    object keeps the voxels that two of them claim.

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
        """Boxes (n, 2 * dims), labels (n) from 1 on, and the map of instances 1 to n (*spatial); n may be 0."""
        instances, objects = instances_of_classes(reference, self.ids)
        return {
            HEAD: {
                "boxes": torch.from_numpy(objects.boxes.astype(np.float32)),
                "labels": torch.from_numpy(objects.labels),
                "instances": torch.from_numpy(np.ascontiguousarray(instances)),
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
                "does not; choose model=mask_rcnn or model=mask_retinanet"
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
            labels, scores = found["labels"][sure].cpu().numpy(), found["scores"][sure].cpu().numpy()
            instances, kept = instances_of_masks(
                found["masks"][sure, 0].cpu(),
                found["boxes"][sure].cpu().numpy(),
                scores,
                placement,
                threshold=self.mask_threshold,
                least_visible=self.least_visible,
            )
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

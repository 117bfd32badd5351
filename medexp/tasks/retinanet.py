"""Detection by anchors: boxes all over the image, each judged for what it holds and how far it lies off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from monai.apps.detection.utils.ATSS_matcher import ATSSMatcher
from monai.apps.detection.utils.box_selector import BoxSelector
from torch import Tensor, nn

from medexp.core.anchors import ANCHORS, LOGITS, assign, select
from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Placement
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Batch, Kind, Prediction
from medexp.tasks._known import classes_of, objects_of_classes, prediction_of, reference_objects
from medexp.tasks.base import Task

TARGETS = "boxes"


class AnchorDetection(Task):
    """One-stage detection with the configured losses of classes and of boxes.

    Source: T.-Y. Lin et al., Focal loss for dense object detection (RetinaNet), ICCV 2017. Anchors are assigned to
    objects as in S. Zhang et al., Bridging the gap between anchor-based and anchor-free detection via adaptive training
    sample selection (ATSS), CVPR 2020, and boxes are coded by their distance from the anchor, in sizes of the anchor,
    as in S. Ren et al., Faster R-CNN, NIPS 2015; both by MONAI.

    Each class is a region with a probability of its own, and the loss sees the anchors of the batch as it sees voxels.
    medexp's losses are means over all of them, and in RetinaNet the loss is the sum over all anchors, divided by the
    number of those that hold an object (section 4.1 there), as the many others hardly count in a focal loss. So the
    configured loss is multiplied by the number of its values over the number of anchors with an object (at least 1),
    and it has to be a mean. The sums of the box loss are divided by the same number.

    Args:
        labels: Name of each label id of the dataset; 0 is the background.
        loss: A mean over values: focal loss or cross-entropy, or a weighted sum of such.
        box_loss: Terms by name for offsets and boxes, predicted and wanted, each a sum.
        class_weight: Factor on the loss of classes; the box loss has weights of its own.
        candidates: Places of each level that are nearest to an object and may be assigned to it.
        center_inside: An anchor is assigned to an object only where its centre lies in it.
        score_threshold: Boxes with a lower score are left out.
        candidates_per_level: The surest boxes of a level that are looked at, at most.
        nms_iou: Of boxes of a class that overlap more than this the surest stays.
        detections_per_image: Largest number of objects in an image.
        sigmoid: True; the losses read it.

    Raises:
        UsageError: There is no class, the loss is no mean, or a knob has a value that has no meaning.
    """

    gives = Kind.OBJECTS
    judged = Kind.OBJECTS
    usual_metrics = ("mean_ap",)
    dense = False

    def __init__(
        self,
        *,
        labels: Mapping[int, str],
        loss: nn.Module,
        box_loss: nn.Module,
        class_weight: float,
        candidates: int,
        center_inside: bool,
        score_threshold: float,
        candidates_per_level: int,
        nms_iou: float,
        detections_per_image: int,
        sigmoid: bool,
    ) -> None:
        super().__init__()
        self.ids, self.classes = classes_of(labels)
        _check(
            class_weight=class_weight,
            score_threshold=score_threshold,
            nms_iou=nms_iou,
            sigmoid=sigmoid,
            candidates=candidates,
            candidates_per_level=candidates_per_level,
            detections_per_image=detections_per_image,
        )
        _check_mean(loss, classes=len(self.classes))
        self.heads = {LOGITS: len(self.classes)}
        self.loss_function = loss
        self.box_loss_function = box_loss
        self.class_weight = class_weight
        self.matcher = ATSSMatcher(num_candidates=candidates, center_in_gt=center_inside)
        self.selector = BoxSelector(
            score_thresh=score_threshold,
            topk_candidates_per_level=candidates_per_level,
            nms_thresh=nms_iou,
            detections_per_img=detections_per_image,
        )

    def sample_targets(self, reference: Annotation) -> dict[str, Any]:
        """Boxes (n, 2 * dims) and channels of their classes (n); n may be 0."""
        objects = objects_of_classes(reference, self.ids)
        if (objects.high <= objects.low).any():
            raise DataError(
                "anchors need boxes with an extent, and the dataset has points; choose task=detection/density"
            )
        boxes = torch.from_numpy(objects.boxes.astype(np.float32))
        return {TARGETS: {"boxes": boxes, "channels": torch.from_numpy(objects.labels - 1)}}

    def forward(self, model: nn.Module, images: Tensor, targets: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the network says of its anchors; UsageError where it has none."""
        outputs: dict[str, Any] = model(images)
        if ANCHORS not in outputs:
            raise UsageError("task=detection/retinanet needs a network with anchors; choose model=retinanet")
        return outputs

    def loss(self, outputs: dict[str, Any], targets: dict[str, Any]) -> dict[str, Tensor]:
        """Terms of the classes and of the boxes, whose names begin with "class" and "box"."""
        wanted = targets[TARGETS]
        boxes, channels = ([own[name] for own in wanted] for name in ("boxes", "channels"))
        seen = assign(outputs, boxes, channels, self.matcher)
        scale = self.class_weight * seen.logits.numel() / seen.count
        classes = _as_terms(self.loss_function(_as_voxels(seen.logits), _as_voxels(seen.one_hot)))
        box_terms = self.box_loss_function(
            offsets=(seen.offsets, seen.wanted_offsets()), boxes=(seen.decoded(), seen.boxes)
        )
        return {
            **{f"class_{name}" if name else "class": scale * term for name, term in classes.items()},
            **{f"box_{name}": term / seen.count for name, term in box_terms.items()},
        }

    def decode(self, outputs: dict[str, Any], batch: Batch) -> list[Prediction]:
        """Objects on each image's own grid, the surest first."""
        predictions = []
        for index, (image, placement) in enumerate(zip(batch.images_read, batch.placements, strict=True)):
            selected = select(outputs, index, self.selector, placement.resized_shape)
            predictions.append(prediction_of(image, self.classes, objects=_to_image_grid(selected, placement)))
        return predictions

    def reference(self, batch: Batch) -> list[Prediction]:
        """The objects of the annotations."""
        return reference_objects(batch, self.ids, self.classes)


def _as_voxels(values: Float[Tensor, "batch n classes"]) -> Float[Tensor, "1 classes anchors"]:
    """All anchors of a batch as the voxels of one image."""
    return values.flatten(0, 1).T[None]


def _as_terms(value: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(value) if isinstance(value, Mapping) else {"": value}


def _to_image_grid(selected: tuple[Tensor, Tensor, Tensor], placement: Placement) -> Objects:
    """Boxes, scores and channels as objects on the image's grid."""
    boxes, scores, labels = selected
    found = Objects.of(boxes.cpu().numpy(), labels.cpu().numpy() + 1, scores.cpu().numpy())
    return found.moved(*placement.to_image())


def _check(*, class_weight: float, score_threshold: float, nms_iou: float, sigmoid: bool, **counts: int) -> None:
    if class_weight <= 0:
        raise UsageError(f"task.class_weight needs a value above 0, got {class_weight}")
    for name, value in {"score_threshold": score_threshold, "nms_iou": nms_iou}.items():
        if not 0 <= value <= 1:
            raise UsageError(f"task.{name} needs a value in [0, 1], got {value}")
    for name, count in counts.items():
        if count < 1:
            raise UsageError(f"task.{name} needs a value >= 1, got {count}")
    if not sigmoid:
        raise UsageError("task.sigmoid is true, since each class of an anchor is a region; leave it as it is")


def _check_mean(loss: nn.Module, *, classes: int) -> None:
    """Raise UsageError for a loss of several anchors that is not the mean of their losses, such as Dice."""
    logits = torch.tensor([0.5, -1.0, 2.0]).repeat(1, classes, 1)
    target = torch.tensor([1.0, 0.0, 0.0]).repeat(1, classes, 1)

    def value_of(anchors: slice) -> Tensor:
        return torch.stack(list(_as_terms(loss(logits[..., anchors], target[..., anchors])).values())).sum()

    each = torch.stack([value_of(slice(i, i + 1)) for i in range(logits.shape[2])])
    if not torch.isclose(value_of(slice(None)), each.mean(), rtol=1e-4):
        raise UsageError(
            f"task=detection/retinanet divides the loss by the number of anchors with an object, and "
            f"{type(loss).__name__} is no mean over anchors; choose loss=focal or loss=cross_entropy"
        )

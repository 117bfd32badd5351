"""Boxes all over an image, which of them are assigned to an object, and what a detector says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Integer
from monai.apps.detection.utils.ATSS_matcher import ATSSMatcher
from monai.apps.detection.utils.box_coder import BoxCoder
from monai.apps.detection.utils.box_selector import BoxSelector
from torch import Tensor

LOGITS, OFFSETS, ANCHORS = "logits", "offsets", "anchors"
_NO_OBJECT = -1


@dataclass(frozen=True, eq=False)
class Assigned:
    """What losses see of the anchors of a batch.

    Attributes:
        logits: Of all anchors.
        one_hot: What they should say.
        offsets: Of the anchors that are assigned to an object.
        anchors: The boxes of these anchors.
        boxes: Their objects' boxes.
        images: Number of their image in the batch.
        places: Their numbers among all anchors of the image.
        objects: Number of their object in the image.
    """

    logits: Float[Tensor, "batch n classes"]
    one_hot: Float[Tensor, "batch n classes"]
    offsets: Float[Tensor, "assigned corners"]
    anchors: Float[Tensor, "assigned corners"]
    boxes: Float[Tensor, "assigned corners"]
    images: Integer[Tensor, "assigned"]
    places: Integer[Tensor, "assigned"]
    objects: Integer[Tensor, "assigned"]

    @property
    def count(self) -> int:
        """Anchors that are assigned to an object, at least 1."""
        return max(len(self.anchors), 1)

    def decoded(self) -> Float[Tensor, "assigned corners"]:
        """The boxes that the network says of these anchors."""
        return decode(self.offsets, self.anchors)

    def wanted_offsets(self) -> Float[Tensor, "assigned corners"]:
        """What the network should say of these anchors."""
        wanted: Tensor = _coder(self.anchors).encode_single(self.boxes, self.anchors)
        return wanted


def assign(
    outputs: dict[str, Any],
    boxes: Sequence[Float[Tensor, "_ corners"]],
    channels: Sequence[Integer[Tensor, "_"]],
    matcher: ATSSMatcher,
) -> Assigned:
    """Assign the anchors of all levels to the objects of each image.

    Args:
        outputs: For each level "logits" (batch, places, shapes, classes), "offsets" (batch, places, shapes, corners)
            and "anchors" (places, shapes, corners).
        boxes: Of the objects of each image.
        channels: Their classes' channels.
        matcher: Decides.

    Returns:
        What the losses see.
    """
    logits, offsets = (torch.cat([level.flatten(1, 2) for level in outputs[name]], dim=1) for name in (LOGITS, OFFSETS))
    anchors = torch.cat([level.flatten(0, 1) for level in outputs[ANCHORS]])
    object_of = [_objects_of(outputs[ANCHORS], own, matcher) for own in boxes]
    places = [torch.nonzero(own != _NO_OBJECT)[:, 0] for own in object_of]
    objects = [own[there] for own, there in zip(object_of, places, strict=True)]
    one_hot = torch.zeros_like(logits)
    for image, (there, number) in enumerate(zip(places, objects, strict=True)):
        one_hot[image, there, channels[image][number]] = 1
    return Assigned(
        logits=logits,
        one_hot=one_hot,
        offsets=torch.cat([own[there] for own, there in zip(offsets, places, strict=True)]),
        anchors=anchors[torch.cat(places)],
        boxes=torch.cat([own[number] for own, number in zip(boxes, objects, strict=True)]),
        images=torch.cat([torch.full_like(there, image) for image, there in enumerate(places)]),
        places=torch.cat(places),
        objects=torch.cat(objects),
    )


def select(
    outputs: dict[str, Any], image: int, selector: BoxSelector, shape: Sequence[int]
) -> tuple[Float[Tensor, "n corners"], Float[Tensor, "n"], Integer[Tensor, "n"]]:
    """The surest boxes of an image, cut at its border.

    Args:
        outputs: As `assign` takes them.
        image: Its number in the batch.
        selector: Decides.
        shape: Voxels of the image along each axis.

    Returns:
        Boxes, scores and channels, the surest first.
    """
    logits, offsets = ([level[image].flatten(0, 1) for level in outputs[name]] for name in (LOGITS, OFFSETS))
    anchors = [level.flatten(0, 1) for level in outputs[ANCHORS]]
    boxes = [decode(*level) for level in zip(offsets, anchors, strict=True)]
    found: tuple[Tensor, Tensor, Tensor] = selector.select_boxes_per_image(boxes, logits, list(shape))
    return found


def decode(offsets: Float[Tensor, "n corners"], anchors: Float[Tensor, "n corners"]) -> Float[Tensor, "n corners"]:
    """The boxes that lie so far off their anchors."""
    boxes: Tensor = _coder(anchors).decode_single(offsets, anchors)
    return boxes


def _objects_of(
    levels: Sequence[Float[Tensor, "_ shapes corners"]], boxes: Float[Tensor, "n corners"], matcher: ATSSMatcher
) -> Integer[Tensor, "anchors"]:
    """The object that each anchor is assigned to."""
    anchors = torch.cat([level.flatten(0, 1) for level in levels])
    if len(boxes) == 0:
        return torch.full((len(anchors),), _NO_OBJECT, device=anchors.device)
    _, object_of = matcher(boxes, anchors, [len(level) for level in levels], levels[0].shape[1])
    assigned: Tensor = object_of
    return assigned


def _coder(anchors: Float[Tensor, "n corners"]) -> BoxCoder:
    return BoxCoder(weights=(1.0,) * anchors.shape[-1])

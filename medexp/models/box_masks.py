"""A detector by anchors with a mask inside each box, which computes its losses itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from monai.apps.detection.utils.ATSS_matcher import ATSSMatcher
from monai.apps.detection.utils.box_selector import BoxSelector
from monai.losses import BoxGIoULoss, DiceLoss
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from medexp.core.anchors import Assigned, assign, select
from medexp.models.retinanet import AnchorNetwork
from medexp.models.roi_align import multi_level_roi_align, roi_align

OBJECTS, LOSSES = "objects", "losses"
_GROUPS = 8  # of channels that the head normalises together, as MONAI's heads of RetinaNet do
_AT_ONCE = 16  # boxes whose masks are predicted together in evaluation, as memory grows with them
_LEAST_IOU = 0.5  # of a found box that the mask head learns from, as in Mask R-CNN


@dataclass(frozen=True)
class Losses:
    """What the loss terms are made with.

    Attributes:
        focal_alpha: Weight of anchors with an object in the focal loss, 1 - alpha that of the others.
        focal_gamma: Its focusing exponent.
        smooth_l1_beta: Offset from which on smooth L1 is straight.
    """

    focal_alpha: float
    focal_gamma: float
    smooth_l1_beta: float

    def of_boxes(self, seen: Assigned) -> dict[str, Tensor]:
        """Sums over the anchors, divided by the number of those that are assigned to an object."""
        classes = sigmoid_focal_loss(
            seen.logits, seen.one_hot, alpha=self.focal_alpha, gamma=self.focal_gamma, reduction="sum"
        )
        offsets = F.smooth_l1_loss(seen.offsets, seen.wanted_offsets(), beta=self.smooth_l1_beta, reduction="sum")
        giou = BoxGIoULoss(reduction="sum")(seen.decoded(), seen.boxes)
        terms = {"loss_classifier": classes, "loss_box_reg": offsets, "loss_box_giou": giou}
        return {name: term / seen.count for name, term in terms.items()}

    def of_masks(self, logits: Float[Tensor, "n *bins"], wanted: Float[Tensor, "n *bins"]) -> dict[str, Tensor]:
        """Means over the masks; 0 with a gradient of 0 where there is none."""
        if len(logits) == 0:
            nothing = logits.sum()
            return {"loss_mask": nothing, "loss_mask_dice": nothing}
        return {
            "loss_mask": F.binary_cross_entropy_with_logits(logits, wanted),
            "loss_mask_dice": DiceLoss(sigmoid=True)(logits[:, None], wanted[:, None]),
        }


class MaskHead(nn.Sequential):
    """The mask of each class on a grid twice as fine as the features (He et al., fig. 4), normalised by groups.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the features.
        channels: Channels of the head; a multiple of 8.
        layers: Convolutions before the grid is refined.
        classes: Classes of objects.
    """

    def __init__(self, *, spatial_dims: int, in_channels: int, channels: int, layers: int, classes: int) -> None:
        conv, transposed = Conv[Conv.CONV, spatial_dims], Conv[Conv.CONVTRANS, spatial_dims]
        parts: list[nn.Module] = []
        for given in [in_channels, *[channels] * (layers - 1)]:
            parts += [conv(given, channels, 3, padding=1), nn.GroupNorm(_GROUPS, channels), nn.ReLU()]
        parts += [transposed(channels, channels, 2, stride=2), nn.ReLU(), conv(channels, classes, 1)]
        super().__init__(*parts)
        for part in parts:
            if isinstance(part, (conv, transposed)):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(part.bias)


class BoxMaskNetwork(nn.Module):
    """Boxes by anchors and masks inside them: losses in training, objects in evaluation.

    Masks are learned inside the boxes of the reference, and inside those that the network finds from anchors that are
    assigned to an object, where they overlap its box by an IoU of .5: the surest, as these are what it will see.
    Boxes, their assignment and all losses are computed in fp32.

    Args:
        detector: Says of each anchor what it holds.
        mask_head: Makes masks of features inside boxes.
        mask_levels: Levels of the pyramid with these features, finest first.
        mask_bins: Side of the grid of features inside a box.
        matcher: Assigns anchors to objects.
        selector: Chooses boxes in evaluation.
        found_boxes: Boxes of an image, found by the network, that masks are learned in, at most.
        losses: Makes the loss terms.
    """

    def __init__(
        self,
        detector: AnchorNetwork,
        *,
        mask_head: nn.Module,
        mask_levels: Sequence[int],
        mask_bins: int,
        matcher: ATSSMatcher,
        selector: BoxSelector,
        found_boxes: int,
        losses: Losses,
    ) -> None:
        super().__init__()
        self.detector = detector
        self.mask_head = mask_head
        self.mask_levels = tuple(mask_levels)
        self.mask_bins = mask_bins
        self.matcher = matcher
        self.selector = selector
        self.found_boxes = found_boxes
        self.losses = losses

    def forward(
        self, images: Float[Tensor, "batch channels *spatial"], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Any]:
        """The loss terms under "losses", or what was found in each image under "objects".

        Args:
            images: The images.
            targets: For each image its boxes (n, 2 * dims) in voxels, lower ends along all axes, then upper ends,
                labels (n) from 1 on and the map of instances 1 to n (*spatial); n may be 0. Needed in training, and
                read there alone.

        Returns:
            A mapping with one of the keys; an image's objects are boxes, labels, scores and soft masks (n, 1, *size)
            that fill their boxes, the surest first.
        """
        maps = self.detector.pyramid(images)
        said = {name: [level.float() for level in levels] for name, levels in self.detector.judge(maps).items()}
        if not self.training:
            return {OBJECTS: [self._objects(maps, said, image, images.shape[2:]) for image in range(len(images))]}
        assert targets is not None
        with torch.autocast(images.device.type, enabled=False):
            seen = assign(said, [own["boxes"] for own in targets], [own["labels"] - 1 for own in targets], self.matcher)
            terms = self.losses.of_boxes(seen)
            found = boxes_to_learn(seen, targets, images.shape[2:], limit=self.found_boxes)
        logits, wanted = self._masks(maps, targets, found)
        with torch.autocast(images.device.type, enabled=False):
            return {LOSSES: terms | self.losses.of_masks(logits.float(), wanted)}

    def _masks(
        self,
        maps: Mapping[int, Tensor],
        targets: Sequence[Mapping[str, Tensor]],
        found: Sequence[tuple[Float[Tensor, "_ corners"], Integer[Tensor, "_"]]],
    ) -> tuple[Float[Tensor, "n *size"], Float[Tensor, "n *size"]]:
        """Logits inside boxes, of their objects' classes, and what they should be."""
        features = torch.cat([self._features(maps, image, boxes) for image, (boxes, _) in enumerate(found)])
        channels = torch.cat([own["labels"][objects] - 1 for own, (_, objects) in zip(targets, found, strict=True)])
        wanted = [
            masks_inside(own["instances"], objects + 1, boxes, size=2 * self.mask_bins)
            for own, (boxes, objects) in zip(targets, found, strict=True)
        ]
        return _of_channels(self.mask_head(features), channels), torch.cat(wanted)

    def _objects(
        self, maps: Mapping[int, Tensor], said: dict[str, Any], image: int, shape: Sequence[int]
    ) -> dict[str, Tensor]:
        boxes, scores, channels = select(said, image, self.selector, shape)
        masks = [
            _of_channels(self.mask_head(self._features(maps, image, some)), own)
            for some, own in zip(boxes.split(_AT_ONCE), channels.split(_AT_ONCE), strict=True)
        ]
        soft = torch.cat(masks)[:, None].float().sigmoid()
        return {"boxes": boxes, "labels": channels + 1, "scores": scores, "masks": soft}

    def _features(self, maps: Mapping[int, Tensor], image: int, boxes: Float[Tensor, "n corners"]) -> Tensor:
        levels = [maps[level][image] for level in self.mask_levels]
        strides = [self.detector.strides[level] for level in self.mask_levels]
        return multi_level_roi_align(levels, boxes, size=self.mask_bins, strides=strides)


def boxes_to_learn(
    seen: Assigned, targets: Sequence[Mapping[str, Tensor]], shape: Sequence[int], *, limit: int
) -> list[tuple[Float[Tensor, "_ corners"], Integer[Tensor, "_"]]]:
    """Boxes inside which masks are learned, and the numbers of their objects, for each image.

    Args:
        seen: The anchors of the batch.
        targets: Boxes and labels of each image.
        shape: Voxels of the images along each axis.
        limit: Boxes of an image that are found, at most.

    Returns:
        The reference's boxes, and the surest of those that are found and overlap it.
    """
    with torch.no_grad():
        size = seen.boxes.new_tensor(list(shape)).repeat(2)
        boxes = torch.minimum(seen.decoded().clamp(min=0), size)
        fits = _overlaps(boxes, seen.boxes) >= _LEAST_IOU
        chosen = []
        for image, own in enumerate(targets):
            here = torch.nonzero((seen.images == image) & fits)[:, 0]
            said = seen.logits[image, seen.places[here], own["labels"][seen.objects[here]] - 1]
            surest = here[said.argsort(descending=True, stable=True)[:limit]]
            known = torch.arange(len(own["boxes"]), device=boxes.device)
            chosen.append((torch.cat([own["boxes"], boxes[surest]]), torch.cat([known, seen.objects[surest]])))
    return chosen


def masks_inside(
    instances: Integer[Tensor, "*spatial"],
    identities: Integer[Tensor, "n"],
    boxes: Float[Tensor, "n corners"],
    *,
    size: int,
) -> Float[Tensor, "n *size"]:
    """The share of an instance in the bins of a grid inside its box, as `roi_align` samples it.

    Args:
        instances: Ids of instances.
        identities: The instance of each box.
        boxes: Lower ends along all axes, then upper ends, in voxels.
        size: Bins along each axis.

    Returns:
        Values from 0 to 1.
    """
    dims = instances.ndim
    # With the neighbours between which values at the box's border are interpolated.
    first = (boxes[:, :dims].floor().long() - 1).clamp(min=0)
    stop = boxes[:, dims:].ceil().long() + 1
    masks = [torch.zeros(0, *[size] * dims, device=instances.device)]
    parts = zip(first.tolist(), stop.tolist(), strict=True)
    for number, ends in enumerate(parts):
        inside = instances[tuple(slice(*axis) for axis in zip(*ends, strict=True))] == identities[number]
        box = boxes[number] - first[number].repeat(2)
        masks.append(roi_align(inside.float()[None], box[None], size=size)[0])
    return torch.cat(masks)


def _overlaps(boxes: Float[Tensor, "n corners"], others: Float[Tensor, "n corners"]) -> Float[Tensor, "n"]:
    """IoU of each box and the other in its row; the others have a volume."""
    dims = boxes.shape[1] // 2

    def volume(low: Tensor, high: Tensor) -> Tensor:
        return (high - low).clamp(min=0).prod(dim=1)

    low, high = torch.maximum(boxes, others)[:, :dims], torch.minimum(boxes, others)[:, dims:]
    shared = volume(low, high)
    each = [volume(some[:, :dims], some[:, dims:]) for some in (boxes, others)]
    return shared / (each[0] + each[1] - shared)


def _of_channels(maps: Float[Tensor, "n classes *size"], channels: Integer[Tensor, "n"]) -> Float[Tensor, "n *size"]:
    return maps[torch.arange(len(maps), device=maps.device), channels]

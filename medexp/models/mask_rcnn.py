"""torchvision's Mask R-CNN for images of any number of channels, at their own size and intensities."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import get_model_builder, list_models, resnet
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN, resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from medexp.core.errors import UsageError, did_you_mean

OBJECTS, LOSSES = "objects", "losses"
_LEVELS = 5  # four of the ResNet and a pooled one
_RESNET_LEVELS = range(2, 6)  # the features of level k have one place for 2**k pixels
_POOLED = 7  # side of the pooled features of a box, as torchvision has it
_MASK_FEATURES = 256


class ObjectNetwork(nn.Module):
    """A detector of torchvision under the contract of models: losses in training, objects in evaluation.

    Args:
        network: Takes a list of images and, in training, of targets.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, images: Float[Tensor, "batch channels rows columns"], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Any]:
        """The detector's loss terms under "losses", or what it found in each image under "objects".

        Args:
            images: The images.
            targets: For each image its boxes (n, 4) in pixels, lower ends along both axes, then upper ends, labels (n)
                from 1 on and the map of instances 1 to n (rows, columns); n may be 0. Needed in training, and read
                there alone.

        Returns:
            A mapping with one of the keys; an image's objects are boxes, labels, scores and soft masks (n, 1, size,
            size) that fill their boxes, the surest first.
        """
        if self.training:
            return {LOSSES: self.network(list(images), [_for_torchvision(own) for own in targets or ()])}
        return {OBJECTS: [found | {"boxes": _other_order(found["boxes"])} for found in self.network(list(images))]}


def _for_torchvision(target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A target in torchvision's terms: columns before rows, and a mask (n, rows, columns) for each object."""
    own = torch.arange(1, len(target["labels"]) + 1, device=target["instances"].device)[:, None, None]
    return {
        "boxes": _other_order(target["boxes"]),
        "labels": target["labels"],
        "masks": (target["instances"] == own).to(torch.uint8),
    }


def _other_order(boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    return boxes[:, [1, 0, 3, 2]]


def mask_rcnn(
    *,
    spatial_dims: int,
    in_channels: int,
    heads: Mapping[str, int],
    backbone: str,
    norm_groups: int,
    anchor_sizes_px: Sequence[int],
    aspect_ratios: Sequence[float],
    box_features: int,
    mask_size: int,
    proposals: int,
    sampled_boxes: int,
    detections_per_image: int,
    score_threshold: float,
    nms_iou: float,
) -> nn.Module:
    """Build Mask R-CNN (He et al., ICCV 2017) over a feature pyramid, as torchvision implements it.

    torchvision prepares photographs: it resizes them and brings three channels to ImageNet's mean. Here images keep
    their size, and intensities stay as the dataset's normalisation made them. Weights are random, and normalisation is
    by groups, which does not depend on the number of images in a batch. In mixed precision boxes are still computed in
    fp32, as bf16 rounds a coordinate above 128 to whole pixels.

    Args:
        spatial_dims: 2.
        in_channels: Channels of the image.
        heads: {"objects": classes + 1}.
        backbone: A ResNet of torchvision, e.g. resnet18.
        norm_groups: Groups of channels that are normalised together; a divisor of 64.
        anchor_sizes_px: Side of the anchors at each of the five levels, finest first.
        aspect_ratios: Height over width of the anchors at each place.
        box_features: Features of the layer that classifies a box.
        mask_size: Side of the mask inside a box before it is brought to the box's size; even.
        proposals: Boxes that the first stage hands to the second, at most.
        sampled_boxes: Of these, how many of an image the second stage learns from.
        detections_per_image: Largest number of objects in an image.
        score_threshold: Objects with a lower score are left out.
        nms_iou: Of boxes of a class that overlap more than this the surest stays.

    Returns:
        The network.

    Raises:
        UsageError: The images are not 2D, the task needs other heads, or a knob has a value that has no meaning.
    """
    _check_task(spatial_dims, heads)
    _check_knobs(backbone, anchor_sizes_px, mask_size)
    pyramid = _pyramid(backbone, in_channels=in_channels, norm_groups=norm_groups)
    network = MaskRCNN(
        pyramid,
        rpn_anchor_generator=AnchorGenerator(
            sizes=tuple((size,) for size in anchor_sizes_px), aspect_ratios=(tuple(aspect_ratios),) * _LEVELS
        ),
        box_roi_pool=_pooling(_POOLED),
        box_head=TwoMLPHead(pyramid.out_channels * _POOLED**2, box_features),
        box_predictor=FastRCNNPredictor(box_features, heads[OBJECTS]),
        mask_roi_pool=_pooling(mask_size // 2),
        mask_predictor=MaskRCNNPredictor(_MASK_FEATURES, _MASK_FEATURES, heads[OBJECTS]),
        rpn_pre_nms_top_n_train=proposals,
        rpn_pre_nms_top_n_test=proposals,
        rpn_post_nms_top_n_train=proposals,
        rpn_post_nms_top_n_test=proposals,
        box_batch_size_per_image=sampled_boxes,
        box_score_thresh=score_threshold,
        box_nms_thresh=nms_iou,
        box_detections_per_img=detections_per_image,
    )
    network.transform = _AsItIs(min_size=1, max_size=1, image_mean=[0.0] * in_channels, image_std=[1.0] * in_channels)
    heads_of_stages = network.rpn.head, network.roi_heads.box_predictor, network.roi_heads.mask_predictor
    for part in (network.backbone, *heads_of_stages):
        part.register_forward_hook(_give_fp32)
    return ObjectNetwork(network)


def _check_task(spatial_dims: int, heads: Mapping[str, int]) -> None:
    if spatial_dims != 2:
        raise UsageError(f"model=mask_rcnn is for 2D images, got {spatial_dims}D; choose model=mask_retinanet")
    if set(heads) != {OBJECTS}:
        raise UsageError(f"model=mask_rcnn finds objects and has no maps {sorted(heads)}; choose task=instance/detect")


def _check_knobs(backbone: str, anchor_sizes_px: Collection[int], mask_size: int) -> None:
    known = [name for name in list_models() if get_model_builder(name).__module__ == resnet.__name__]
    if backbone not in known:
        raise UsageError(f"model.backbone needs a ResNet of torchvision, got {backbone}{did_you_mean(backbone, known)}")
    if len(anchor_sizes_px) != _LEVELS:
        raise UsageError(f"model.anchor_sizes_px needs {_LEVELS} values, one a level, got {list(anchor_sizes_px)}")
    if mask_size < 2 or mask_size % 2:
        raise UsageError(f"model.mask_size needs an even number, as the last layer doubles it, got {mask_size}")


def _pyramid(backbone: str, *, in_channels: int, norm_groups: int) -> BackboneWithFPN:
    """A ResNet for images of other than three channels, with its feature pyramid."""
    pyramid: BackboneWithFPN = resnet_fpn_backbone(
        backbone_name=backbone, weights=None, norm_layer=partial(nn.GroupNorm, norm_groups), trainable_layers=5
    )
    first = pyramid.body.conv1
    pyramid.body.conv1 = nn.Conv2d(
        in_channels, first.out_channels, first.kernel_size, first.stride, first.padding, bias=False
    )
    return pyramid


def _pooling(size: int) -> MultiScaleRoIAlign:
    """Features of boxes, from the level that fits their size."""
    pooling = MultiScaleRoIAlign([str(level) for level in range(len(_RESNET_LEVELS))], size, sampling_ratio=2)
    # torchvision would infer the scales once, from the height of the first image, and err where it was padded by much.
    pooling.scales = [2.0**-level for level in _RESNET_LEVELS]
    pooling.map_levels = initLevelMapper(
        _RESNET_LEVELS[0], _RESNET_LEVELS[-1], pooling.canonical_scale, pooling.canonical_level
    )
    return pooling


def _give_fp32(_module: nn.Module, _given: Any, output: Any) -> Any:
    """A hook after which a module gives its output in fp32."""
    return _in_fp32(output)


def _in_fp32(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.float()
    if isinstance(output, Mapping):
        return {name: _in_fp32(part) for name, part in output.items()}
    return [_in_fp32(part) for part in output]


class _AsItIs(GeneralizedRCNNTransform):
    """Stacks the images without changing their size, and leaves masks inside their boxes."""

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        return image, target

    def postprocess(
        self, result: list[dict[str, Tensor]], image_shapes: Any, original_image_sizes: Any
    ) -> list[dict[str, Tensor]]:
        return result

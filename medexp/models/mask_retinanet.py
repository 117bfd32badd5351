"""RetinaNet with a mask inside each box, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.apps.detection.utils.ATSS_matcher import ATSSMatcher
from monai.apps.detection.utils.box_selector import BoxSelector
from torch import nn

from medexp.core.errors import UsageError
from medexp.models.box_masks import OBJECTS, BoxMaskNetwork, Losses, MaskHead
from medexp.models.retinanet import anchor_network


def mask_retinanet(
    *,
    spatial_dims: int,
    in_channels: int,
    heads: Mapping[str, int],
    channels: Sequence[int],
    blocks: Sequence[int],
    first_stride: int,
    levels: Sequence[int],
    pyramid_channels: int,
    norm_groups: int,
    anchor_sizes_px: Sequence[Sequence[float]],
    aspect_ratios: Sequence[Any] | None,
    prior: float,
    candidates: int,
    center_inside: bool,
    focal_alpha: float,
    focal_gamma: float,
    smooth_l1_beta: float,
    mask_levels: Sequence[int],
    mask_size: int,
    mask_channels: int,
    mask_layers: int,
    mask_boxes: int,
    score_threshold: float,
    candidates_per_level: int,
    nms_iou: float,
    detections_per_image: int,
) -> nn.Module:
    """Build a one-stage detector with the mask head of Mask R-CNN.

    Sources: T.-Y. Lin et al., Focal loss for dense object detection, ICCV 2017, for the boxes; K. He et al., Mask
    R-CNN, ICCV 2017, for the masks; both in one network as C.-Y. Fu et al., RetinaMask, arXiv:1901.03353, 2019; in 3D
    as P. F. Jaeger et al., Retina U-Net, ML4H 2020, compares them. Anchors are assigned by ATSS (S. Zhang et al., CVPR
    2020). Anchors, matcher, coding and selection of boxes are MONAI's.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        heads: {"objects": classes + 1}.
        channels: Channels of the ResNet's four stages.
        blocks: Residual blocks of each stage.
        first_stride: Stride of the first convolution; stage k has a place for `first_stride` * 2^k voxels along each
            axis.
        levels: Numbers of the stages with anchors, rising from 1 to 4; above the last stands a pooled level.
        pyramid_channels: Channels of the pyramid and of the heads of classes and boxes; a multiple of 8.
        norm_groups: Groups of channels that the ResNet normalises together; a divisor of all `channels`.
        anchor_sizes_px: Sides of the anchors of each level, finest first, as many for each; one level more than
            `levels`.
        aspect_ratios: Length along the second axis over that along the first; in 3D pairs, second and third axis. None
            for squares or cubes alone.
        prior: Probability of an object that the untrained network says of every anchor.
        candidates: Places of each level that are nearest to an object and may be assigned to it.
        center_inside: An anchor is assigned to an object only where its centre lies in it.
        focal_alpha: Weight of anchors with an object in the focal loss, 1 - alpha that of the others.
        focal_gamma: Its focusing exponent.
        smooth_l1_beta: Offset from which on smooth L1 is straight; 0 is L1.
        mask_levels: Numbers of the stages whose features masks are made of, rising, none above the last of `levels`;
            a box has the coarsest in which it is wide enough.
        mask_size: Side of the mask inside a box before it gets the box's size; even, at least 4.
        mask_channels: Channels of the mask head; a multiple of 8.
        mask_layers: Convolutions of the mask head at half the mask's size.
        mask_boxes: Boxes of an image, found by the network, that masks are learned in beside those of the reference, at
            most.
        score_threshold: Objects with a lower score are left out.
        candidates_per_level: The surest boxes of a level that are looked at, at most.
        nms_iou: Of boxes of a class that overlap more than this the surest stays.
        detections_per_image: Largest number of objects in an image.

    Returns:
        The network.

    Raises:
        UsageError: The task needs other heads, or a knob has a value that has no meaning.
    """
    if set(heads) != {OBJECTS}:
        raise UsageError(
            f"model=mask_retinanet finds objects and has no maps {sorted(heads)}; choose task=instance/detect"
        )
    _check_masks(mask_levels, levels=levels, mask_size=mask_size, mask_channels=mask_channels)
    _check_counts(
        mask_layers=mask_layers,
        candidates=candidates,
        candidates_per_level=candidates_per_level,
        detections_per_image=detections_per_image,
    )
    _check_shares(score_threshold=score_threshold, nms_iou=nms_iou, focal_alpha=focal_alpha)
    _check_not_negative(focal_gamma=focal_gamma, smooth_l1_beta=smooth_l1_beta, mask_boxes=mask_boxes)
    classes = heads[OBJECTS] - 1
    return BoxMaskNetwork(
        anchor_network(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            classes=classes,
            channels=channels,
            blocks=blocks,
            first_stride=first_stride,
            levels=levels,
            also=mask_levels,
            pyramid_channels=pyramid_channels,
            norm_groups=norm_groups,
            anchor_sizes_px=anchor_sizes_px,
            aspect_ratios=aspect_ratios,
            prior=prior,
        ),
        mask_head=MaskHead(
            spatial_dims=spatial_dims,
            in_channels=pyramid_channels,
            channels=mask_channels,
            layers=mask_layers,
            classes=classes,
        ),
        mask_levels=mask_levels,
        mask_bins=mask_size // 2,
        matcher=ATSSMatcher(num_candidates=candidates, center_in_gt=center_inside),
        selector=BoxSelector(
            score_thresh=score_threshold,
            topk_candidates_per_level=candidates_per_level,
            nms_thresh=nms_iou,
            detections_per_img=detections_per_image,
        ),
        found_boxes=mask_boxes,
        losses=Losses(focal_alpha=focal_alpha, focal_gamma=focal_gamma, smooth_l1_beta=smooth_l1_beta),
    )


def _check_masks(mask_levels: Sequence[int], *, levels: Sequence[int], mask_size: int, mask_channels: int) -> None:
    if levels and (not mask_levels or list(mask_levels) != sorted({*mask_levels} & {*range(1, levels[-1] + 1)})):
        raise UsageError(
            f"model.mask_levels needs rising numbers of stages from 1 to {levels[-1]}, the last of model.levels, "
            f"got {list(mask_levels)}"
        )
    if mask_size < 4 or mask_size % 2:
        raise UsageError(
            f"model.mask_size needs an even number from 4 on, as the last layer doubles it, got {mask_size}"
        )
    if mask_channels < 8 or mask_channels % 8:
        raise UsageError(f"model.mask_channels needs a multiple of 8, got {mask_channels}")


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise UsageError(f"model.{name} needs a value >= 1, got {count}")


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise UsageError(f"model.{name} needs a value in [0, 1], got {share}")


def _check_not_negative(**values: float | int) -> None:
    for name, value in values.items():
        if value < 0:
            raise UsageError(f"model.{name} needs a value >= 0, got {value}")

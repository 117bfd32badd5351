"""MONAI's RetinaNet with anchors of its own, for images of any number of channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from monai.apps.detection.networks.retinanet_network import RetinaNet
from monai.apps.detection.utils.anchor_utils import AnchorGenerator
from monai.networks.blocks.backbone_fpn_utils import BackboneWithFPN
from monai.networks.nets import ResNet
from torch import Tensor, nn

from medexp.core.errors import UsageError

LOGITS, OFFSETS, ANCHORS = "logits", "offsets", "anchors"
_STAGES = 4  # of MONAI's ResNet
_GROUPS = 8  # of channels that MONAI's heads normalise together


class AnchorNetwork(nn.Module):
    """A network that says of each anchor which class of object it holds and how far it lies off.

    Images are padded with zeros at the upper end of each axis to a multiple of the coarsest level's stride.

    Args:
        network: Gives maps of classes and of offsets at several levels.
        anchors: Boxes around a place, for each level.
        strides: Voxels of the image between two places of a level, finest first.
        spatial_dims: 2 or 3.
    """

    def __init__(
        self, network: RetinaNet, *, anchors: AnchorGenerator, strides: Sequence[int], spatial_dims: int
    ) -> None:
        super().__init__()
        self.network = network
        self.anchors = anchors
        self.strides = tuple(strides)
        self.spatial_dims = spatial_dims

    def forward(self, images: Float[Tensor, "batch channels *spatial"]) -> dict[str, Any]:
        """What is said of each anchor, level by level.

        Args:
            images: The images.

        Returns:
            Three lists with an entry for each level: "logits" (batch, places, shapes, classes), "offsets" (batch,
            places, shapes, 2 * dims) and "anchors" (places, shapes, 2 * dims), lower ends along all axes, then upper
            ends, in voxels where voxel i covers [i, i + 1).
        """
        padding = [amount for n in reversed(images.shape[2:]) for amount in (0, -n % self.strides[-1])]
        maps = self.network(F.pad(images, padding))
        classes = maps[self.network.cls_key]
        return {
            LOGITS: [self._by_place(level) for level in classes],
            OFFSETS: [self._by_place(level) for level in maps[self.network.box_reg_key]],
            ANCHORS: self._anchors([tuple(level.shape[2:]) for level in classes], images.device),
        }

    def _by_place(self, level: Float[Tensor, "batch stacked *places"]) -> Float[Tensor, "batch n shapes values"]:
        shapes = self.network.num_anchors
        return level.reshape(len(level), shapes, level.shape[1] // shapes, -1).permute(0, 3, 1, 2)

    def _anchors(self, sizes: Sequence[tuple[int, ...]], device: torch.device) -> list[Tensor]:
        # Not the generator's forward, which makes anchors in the type of the maps: bf16 has no place 257.
        self.anchors.set_cell_anchors(torch.float32, device)
        strides = [[stride] * self.spatial_dims for stride in self.strides]
        boxes = self.anchors.grid_anchors([list(size) for size in sizes], strides)
        return [level.reshape(-1, self.network.num_anchors, 2 * self.spatial_dims) for level in boxes]


def retinanet(
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
    aspect_ratios: Sequence[Any],
    prior: float,
) -> nn.Module:
    """Build RetinaNet (Lin et al., Focal loss for dense object detection, ICCV 2017) over a ResNet's feature pyramid.

    Stage k of the ResNet has a place for `first_stride` * 2^k voxels along each axis; above the last stage that is used
    stands a pooled level with half as many.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        heads: {"logits": classes}.
        channels: Channels of the ResNet's four stages.
        blocks: Residual blocks of each stage.
        first_stride: Stride of the first convolution.
        levels: Numbers of the stages that get a level of the pyramid, rising from 1 to 4.
        pyramid_channels: Channels of the pyramid and of the two heads; a multiple of 8.
        norm_groups: Groups of channels that the ResNet normalises together; a divisor of all `channels`.
        anchor_sizes_px: Sides of the anchors of each level, finest first, as many for each; one level more than
            `levels`.
        aspect_ratios: Length along the second axis over that along the first; in 3D pairs, second and third axis.
        prior: Probability of an object that the untrained network says of every anchor (section 4.1 there).

    Returns:
        The network.

    Raises:
        UsageError: The task needs other heads, or a knob has a value that has no meaning.
    """
    _check(heads, channels=channels, blocks=blocks, levels=levels, pyramid_channels=pyramid_channels, prior=prior)
    _check_anchors(anchor_sizes_px, n_levels=len(levels) + 1)
    sizes = [tuple(own) for own in anchor_sizes_px]
    anchors = AnchorGenerator(sizes=sizes, aspect_ratios=[_plain(aspect_ratios)] * len(sizes))
    if anchors.spatial_dims != spatial_dims:
        raise UsageError(f"model.aspect_ratios needs numbers in 2D and pairs in 3D, got {list(aspect_ratios)}")
    resnet = ResNet(
        block="basic",
        layers=list(blocks),
        block_inplanes=list(channels),
        spatial_dims=spatial_dims,
        n_input_channels=in_channels,
        conv1_t_stride=first_stride,
        feed_forward=False,
        norm=("group", {"num_groups": norm_groups}),
    )
    pyramid = BackboneWithFPN(
        resnet,
        return_layers={f"layer{level}": str(place) for place, level in enumerate(levels)},
        in_channels_list=[channels[level - 1] for level in levels],
        out_channels=pyramid_channels,
        spatial_dims=spatial_dims,
    )
    network = RetinaNet(
        spatial_dims=spatial_dims,
        num_classes=heads[LOGITS],
        num_anchors=anchors.num_anchors_per_location()[0],
        feature_extractor=pyramid,
    )
    nn.init.constant_(network.classification_head.cls_logits.bias, torch.tensor(prior).logit().item())
    strides = [first_stride * 2**level for level in (*levels, levels[-1] + 1)]
    return AnchorNetwork(network, anchors=anchors, strides=strides, spatial_dims=spatial_dims)


def _check(
    heads: Mapping[str, int],
    *,
    channels: Sequence[int],
    blocks: Sequence[int],
    levels: Sequence[int],
    pyramid_channels: int,
    prior: float,
) -> None:
    if set(heads) != {LOGITS}:
        raise UsageError(
            f"model=retinanet judges anchors and has no maps {sorted(heads)}; choose task=detection/retinanet"
        )
    for name, values in {"channels": channels, "blocks": blocks}.items():
        if len(values) != _STAGES:
            raise UsageError(f"model.{name} needs {_STAGES} values, one a stage, got {list(values)}")
    if not levels or list(levels) != sorted({*levels} & {*range(1, _STAGES + 1)}):
        raise UsageError(f"model.levels needs rising numbers of stages from 1 to {_STAGES}, got {list(levels)}")
    if pyramid_channels % _GROUPS:
        raise UsageError(f"model.pyramid_channels needs a multiple of {_GROUPS}, got {pyramid_channels}")
    if not 0 < prior < 1:
        raise UsageError(f"model.prior needs a probability between 0 and 1, got {prior}")


def _check_anchors(sizes_px: Sequence[Sequence[float]], *, n_levels: int) -> None:
    if len(sizes_px) != n_levels or len({len(sizes) for sizes in sizes_px}) != 1:
        raise UsageError(
            f"model.anchor_sizes_px needs {n_levels} lists of equal length, one a level and one for the pooled level, "
            f"got {[list(sizes) for sizes in sizes_px]}"
        )


def _plain(aspect_ratios: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(ratio if isinstance(ratio, int | float) else tuple(ratio) for ratio in aspect_ratios)

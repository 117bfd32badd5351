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

from medexp.core.anchors import ANCHORS, LOGITS, OFFSETS
from medexp.core.errors import UsageError

_STAGES = 4  # of MONAI's ResNet
_GROUPS = 8  # of channels that MONAI's heads normalise together


class AnchorNetwork(nn.Module):
    """A network that says of each anchor which class of object it holds and how far it lies off.

    Images are padded with zeros at the upper end of each axis to a multiple of the coarsest level's stride.

    Args:
        network: Gives maps of classes and of offsets at several levels.
        anchors: Boxes around a place, for each level with anchors.
        levels: Numbers of the pyramid's levels, finest first.
        judged: Those with anchors.
        first_stride: Voxels of the image between two places of level 0; each further level has twice as many.
        spatial_dims: 2 or 3.
    """

    def __init__(
        self,
        network: RetinaNet,
        *,
        anchors: AnchorGenerator,
        levels: Sequence[int],
        judged: Sequence[int],
        first_stride: int,
        spatial_dims: int,
    ) -> None:
        super().__init__()
        self.network = network
        self.anchors = anchors
        self.strides = {level: first_stride * 2**level for level in levels}
        self.judged = tuple(judged)
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
        return self.judge(self.pyramid(images))

    def pyramid(self, images: Float[Tensor, "batch channels *spatial"]) -> dict[int, Tensor]:
        """The features (batch, channels, *places) of each level, of the padded images."""
        coarsest = max(self.strides.values())
        padding = [amount for n in reversed(images.shape[2:]) for amount in (0, -n % coarsest)]
        maps = self.network.feature_extractor(F.pad(images, padding))
        return dict(zip(self.strides, maps.values(), strict=True))

    def judge(self, maps: Mapping[int, Float[Tensor, "batch channels *_"]]) -> dict[str, Any]:
        """What `forward` gives, from the features of each level."""
        judged = [maps[level] for level in self.judged]
        classes = self.network.classification_head(judged)
        return {
            LOGITS: [self._by_place(level) for level in classes],
            OFFSETS: [self._by_place(level) for level in self.network.regression_head(judged)],
            ANCHORS: self._anchors([tuple(level.shape[2:]) for level in judged], judged[0].device),
        }

    def _by_place(self, level: Float[Tensor, "batch stacked *places"]) -> Float[Tensor, "batch n shapes values"]:
        shapes = self.network.num_anchors
        return level.reshape(len(level), shapes, level.shape[1] // shapes, -1).permute(0, 3, 1, 2)

    def _anchors(self, sizes: Sequence[tuple[int, ...]], device: torch.device) -> list[Tensor]:
        # Not the generator's forward, which makes anchors in the type of the maps: bf16 has no place 257.
        self.anchors.set_cell_anchors(torch.float32, device)
        strides = [[self.strides[level]] * self.spatial_dims for level in self.judged]
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
    aspect_ratios: Sequence[Any] | None,
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
        aspect_ratios: Length along the second axis over that along the first; in 3D pairs, second and third axis. None
            for squares or cubes alone.
        prior: Probability of an object that the untrained network says of every anchor (section 4.1 there).

    Returns:
        The network.

    Raises:
        UsageError: The task needs other heads, or a knob has a value that has no meaning.
    """
    if set(heads) != {LOGITS}:
        raise UsageError(
            f"model=retinanet judges anchors and has no maps {sorted(heads)}; choose task=detection/retinanet"
        )
    return anchor_network(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        classes=heads[LOGITS],
        channels=channels,
        blocks=blocks,
        first_stride=first_stride,
        levels=levels,
        also=(),
        pyramid_channels=pyramid_channels,
        norm_groups=norm_groups,
        anchor_sizes_px=anchor_sizes_px,
        aspect_ratios=aspect_ratios,
        prior=prior,
    )


def anchor_network(
    *,
    spatial_dims: int,
    in_channels: int,
    classes: int,
    channels: Sequence[int],
    blocks: Sequence[int],
    first_stride: int,
    levels: Sequence[int],
    also: Sequence[int],
    pyramid_channels: int,
    norm_groups: int,
    anchor_sizes_px: Sequence[Sequence[float]],
    aspect_ratios: Sequence[Any] | None,
    prior: float,
) -> AnchorNetwork:
    """Build the network of `retinanet`, with further levels in its pyramid.

    Args:
        spatial_dims: As `retinanet`.
        in_channels: As `retinanet`.
        classes: Classes of objects.
        channels: As `retinanet`.
        blocks: As `retinanet`.
        first_stride: As `retinanet`.
        levels: As `retinanet`.
        also: Stages that get a level without anchors, none above the last of `levels`.
        pyramid_channels: As `retinanet`.
        norm_groups: As `retinanet`.
        anchor_sizes_px: As `retinanet`.
        aspect_ratios: As `retinanet`.
        prior: As `retinanet`.

    Returns:
        The network.
    """
    _check(channels=channels, blocks=blocks, levels=levels, pyramid_channels=pyramid_channels, prior=prior)
    stages = sorted({*levels, *also})
    pyramid = _pyramid(
        ResNet(
            block="basic",
            layers=list(blocks),
            block_inplanes=list(channels),
            spatial_dims=spatial_dims,
            n_input_channels=in_channels,
            conv1_t_stride=first_stride,
            feed_forward=False,
            norm=("group", {"num_groups": norm_groups}),
        ),
        stages={stage: channels[stage - 1] for stage in stages},
        out_channels=pyramid_channels,
        spatial_dims=spatial_dims,
    )
    anchors = _anchors(anchor_sizes_px, aspect_ratios, n_levels=len(levels) + 1, spatial_dims=spatial_dims)
    network = RetinaNet(
        spatial_dims=spatial_dims,
        num_classes=classes,
        num_anchors=anchors.num_anchors_per_location()[0],
        feature_extractor=pyramid,
    )
    nn.init.constant_(network.classification_head.cls_logits.bias, torch.tensor(prior).logit().item())
    pooled = stages[-1] + 1
    return AnchorNetwork(
        network,
        anchors=anchors,
        levels=(*stages, pooled),
        judged=(*levels, pooled),
        first_stride=first_stride,
        spatial_dims=spatial_dims,
    )


def _pyramid(resnet: ResNet, *, stages: Mapping[int, int], out_channels: int, spatial_dims: int) -> BackboneWithFPN:
    """A pyramid over the stages of a ResNet with so many channels, and a pooled level."""
    return BackboneWithFPN(
        resnet,
        return_layers={f"layer{stage}": str(place) for place, stage in enumerate(stages)},
        in_channels_list=list(stages.values()),
        out_channels=out_channels,
        spatial_dims=spatial_dims,
    )


def _anchors(
    sizes_px: Sequence[Sequence[float]], aspect_ratios: Sequence[Any] | None, *, n_levels: int, spatial_dims: int
) -> AnchorGenerator:
    if len(sizes_px) != n_levels or len({len(sizes) for sizes in sizes_px}) != 1:
        raise UsageError(
            f"model.anchor_sizes_px needs {n_levels} lists of equal length, one a level and one for the pooled level, "
            f"got {[list(sizes) for sizes in sizes_px]}"
        )
    square = 1.0 if spatial_dims == 2 else (1.0,) * (spatial_dims - 1)
    ratios = (square,) if aspect_ratios is None else _plain(aspect_ratios)
    anchors = AnchorGenerator(sizes=[tuple(own) for own in sizes_px], aspect_ratios=[ratios] * n_levels)
    if anchors.spatial_dims != spatial_dims:
        raise UsageError(f"model.aspect_ratios needs numbers in 2D and pairs in 3D, got {list(ratios)}")
    return anchors


def _check(
    *,
    channels: Sequence[int],
    blocks: Sequence[int],
    levels: Sequence[int],
    pyramid_channels: int,
    prior: float,
) -> None:
    for name, values in {"channels": channels, "blocks": blocks}.items():
        if len(values) != _STAGES:
            raise UsageError(f"model.{name} needs {_STAGES} values, one a stage, got {list(values)}")
    if not levels or list(levels) != sorted({*levels} & {*range(1, _STAGES + 1)}):
        raise UsageError(f"model.levels needs rising numbers of stages from 1 to {_STAGES}, got {list(levels)}")
    if pyramid_channels % _GROUPS:
        raise UsageError(f"model.pyramid_channels needs a multiple of {_GROUPS}, got {pyramid_channels}")
    if not 0 < prior < 1:
        raise UsageError(f"model.prior needs a probability between 0 and 1, got {prior}")


def _plain(aspect_ratios: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(ratio if isinstance(ratio, int | float) else tuple(ratio) for ratio in aspect_ratios)

"""MONAI's UNet++ with its deepest map first, and without heads that nothing looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from monai.networks.nets import BasicUNetPlusPlus
from torch import Tensor, nn

from medexp.models.adapter import DenseModel

_SHALLOWER = ("final_conv_0_1", "final_conv_0_2", "final_conv_0_3")


class _DeepestFirst(nn.Module):
    """MONAI lists the maps from the shallowest nested U-Net to the deepest, and the deepest is the result."""

    def __init__(self, network: BasicUNetPlusPlus) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Float[Tensor, "batch channels *spatial"]) -> list[Tensor]:
        return list(reversed(self.network(images)))


def unet_plus_plus(
    *,
    spatial_dims: int,
    in_channels: int,
    heads: Mapping[str, int],
    features: Sequence[int],
    deep_supervision: bool,
    act: str | Sequence[Any],
    norm: str | Sequence[Any],
    bias: bool,
    dropout: float,
    upsample: str,
) -> nn.Module:
    """Build UNet++ (Zhou et al., DLMIA 2018) as MONAI implements it.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        heads: Channels of each map.
        features: Channels of the five levels, finest first, then those of the last node.
        deep_supervision: The three shallower nested U-Nets are trained too; all their maps have the patch's size.
        act: Activation, with its arguments where it is a pair.
        norm: Normalisation, with its arguments where it is a pair.
        bias: Convolutions have a bias.
        dropout: Probability of dropout.
        upsample: "deconv", "pixelshuffle" or "nontrainable".

    Returns:
        The network under the contract of dense models.
    """
    network = BasicUNetPlusPlus(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=sum(heads.values()),
        features=tuple(features),
        deep_supervision=deep_supervision,
        act=act,
        norm=norm,
        bias=bias,
        dropout=dropout,
        upsample=upsample,
    )
    if not deep_supervision:
        # MONAI computes their maps all the same, and parameters without a gradient stop training on several GPUs.
        for head in _SHALLOWER:
            setattr(network, head, nn.Identity())
    return DenseModel(_DeepestFirst(network), heads=heads, spatial_dims=spatial_dims)

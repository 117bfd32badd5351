"""MONAI's Attention U-Net, which takes strides beyond its levels in silence, with as many as it uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monai.networks.nets import AttentionUnet
from torch import nn

from medexp.core.errors import UsageError
from medexp.models.adapter import DenseModel


def attention_unet(
    *,
    spatial_dims: int,
    in_channels: int,
    heads: Mapping[str, int],
    channels: Sequence[int],
    strides: Sequence[int | Sequence[int]],
    kernel_size: int | Sequence[int],
    up_kernel_size: int | Sequence[int],
    dropout: float,
) -> nn.Module:
    """Build the Attention U-Net (Oktay et al., MIDL 2018) as MONAI implements it, with batch normalisation.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        heads: Channels of each map.
        channels: Of each level, finest first.
        strides: Between the levels.
        kernel_size: Kernel of the encoder.
        up_kernel_size: Kernel of the transposed convolutions.
        dropout: Probability of dropout in the encoder and where maps are merged; MONAI has none elsewhere.

    Returns:
        The network under the contract of dense models.

    Raises:
        UsageError: There is not one stride between each two levels.
    """
    if len(channels) < 2 or len(strides) != len(channels) - 1:
        raise UsageError(
            f"model.strides needs one value between each two of model.channels, of which there are 2 at least; got "
            f"{len(strides)} strides and {len(channels)} channels"
        )
    network = AttentionUnet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=sum(heads.values()),
        channels=list(channels),
        strides=list(strides),
        kernel_size=kernel_size,
        up_kernel_size=up_kernel_size,
        dropout=dropout,
    )
    return DenseModel(network, heads=heads, spatial_dims=spatial_dims)

"""medexp's own U-Net, each of whose parts can be set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from medexp.models.adapter import DenseModel
from medexp.models.blocks import Layers, Levels, PerAxis
from medexp.models.encoder_decoder import EncoderDecoder


def cnn_unet(
    *,
    spatial_dims: int,
    in_channels: int,
    heads: Mapping[str, int],
    filters: Sequence[int],
    strides: Sequence[PerAxis],
    kernel_size: Sequence[PerAxis],
    kernel_shape: str | Sequence[Any],
    convs_per_level: PerAxis,
    depth: int | None,
    width: float | int,
    pooling: str,
    norm: str,
    activation: str,
    dropout: float | int | None,
    deep_supervision_levels: int,
) -> nn.Module:
    """Build a U-Net (Ronneberger et al., MICCAI 2015; 3D: Cicek et al., MICCAI 2016).

    Filters, strides, kernel_size and deep_supervision_levels have the names and the form of `dynunet`, so that what a
    plan of the dataset says of them can be set here.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        heads: Channels of each map.
        filters: Channels of each level, finest first.
        strides: Pooling window before each level; the first is 1.
        kernel_size: Kernel of each level; odd.
        kernel_shape: Shape of the kernels: a name of `stencils.stencil`, or a nested list of 0 and 1.
        convs_per_level: Convolutions of a block, one number or one a level.
        depth: How many of the listed levels there are, from the finest on; None: all.
        width: Factor on all filters.
        pooling: "max", "average" or "strided".
        norm: "instance", "batch", "group" (8 groups) or "none".
        activation: "relu", "leaky_relu", "elu", "prelu", "gelu" or "silu".
        dropout: Probability that a channel is left out, or None.
        deep_supervision_levels: Number of coarser maps for deep supervision.

    Returns:
        The network under the contract of dense models.

    Raises:
        UsageError: Knobs do not fit each other, or a value is out of range.
    """
    levels = Levels.of(
        dims=spatial_dims,
        filters=filters,
        strides=strides,
        kernel_size=kernel_size,
        convs_per_level=convs_per_level,
        depth=depth,
        width=width,
    )
    layers = Layers(
        dims=spatial_dims,
        kernel_shape=kernel_shape,
        pooling=pooling,
        norm=norm,
        activation=activation,
        dropout=dropout,
    )
    network = EncoderDecoder(
        layers=layers,
        levels=levels,
        in_channels=in_channels,
        out_channels=sum(heads.values()),
        deep_supervision_levels=deep_supervision_levels,
    )
    return DenseModel(network, heads=heads, spatial_dims=spatial_dims)

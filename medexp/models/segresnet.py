"""MONAI's SegResNet, without and with deep supervision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.networks.nets import SegResNet, SegResNetDS
from torch import nn

from medexp.core.errors import UsageError
from medexp.models.adapter import DenseModel


def segresnet(
    *,
    spatial_dims: int,
    in_channels: int,
    heads: Mapping[str, int],
    init_filters: int,
    blocks_down: Sequence[int],
    blocks_up: Sequence[int],
    act: str | Sequence[Any],
    norm: str | Sequence[Any],
    dropout: float | None,
    upsample_mode: str,
) -> nn.Module:
    """Build SegResNet (Myronenko, BrainLes 2018) as MONAI implements it, without the autoencoder.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        heads: Channels of each map.
        init_filters: Channels of the finest level; each coarser level has twice as many.
        blocks_down: Residual blocks of each level of the encoder, finest first.
        blocks_up: Residual blocks of each level of the decoder, coarsest first.
        act: Activation, with its arguments where it is a pair.
        norm: Normalisation, with its arguments where it is a pair.
        dropout: Probability that a channel of the first convolution is dropped, or None.
        upsample_mode: "deconv", "nontrainable" or "pixelshuffle".

    Returns:
        The network under the contract of dense models.

    Raises:
        UsageError: Encoder and decoder have numbers of levels that do not fit.
    """
    _check_levels(blocks_down, blocks_up)
    network = SegResNet(
        spatial_dims=spatial_dims,
        init_filters=init_filters,
        in_channels=in_channels,
        out_channels=sum(heads.values()),
        dropout_prob=dropout,
        act=act,
        norm=norm,
        blocks_down=tuple(blocks_down),
        blocks_up=tuple(blocks_up),
        upsample_mode=upsample_mode,
    )
    return DenseModel(network, heads=heads, spatial_dims=spatial_dims)


def segresnet_ds(
    *,
    spatial_dims: int,
    in_channels: int,
    heads: Mapping[str, int],
    init_filters: int,
    blocks_down: Sequence[int],
    blocks_up: Sequence[int],
    act: str | Sequence[Any],
    norm: str | Sequence[Any],
    upsample_mode: str,
    resolution_mm: Sequence[float] | None,
    deep_supervision_levels: int,
) -> nn.Module:
    """Build MONAI's SegResNetDS, the network of Auto3DSeg's SegResNet.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        heads: Channels of each map.
        init_filters: Channels of the finest level; each coarser level has twice as many.
        blocks_down: Residual blocks of each level of the encoder, finest first.
        blocks_up: Residual blocks of each level of the decoder, coarsest first.
        act: Activation, with its arguments where it is a pair.
        norm: Normalisation, with its arguments where it is a pair.
        upsample_mode: "deconv", "nontrainable" or "pixelshuffle".
        resolution_mm: Spacing of the images; the first levels then shrink the finely sampled axes alone. None treats
            all axes alike.
        deep_supervision_levels: Number of coarser maps for deep supervision; 0 turns it off.

    Returns:
        The network under the contract of dense models.

    Raises:
        UsageError: Encoder and decoder have numbers of levels that do not fit, or a value is out of range.
    """
    _check_levels(blocks_down, blocks_up)
    if not 0 <= deep_supervision_levels < len(blocks_up):
        raise UsageError(
            f"model.deep_supervision_levels needs 0..{len(blocks_up) - 1} with {len(blocks_down)} levels, "
            f"got {deep_supervision_levels}"
        )
    if resolution_mm is not None and len(resolution_mm) != spatial_dims:
        raise UsageError(f"model.resolution_mm needs {spatial_dims} values, got {list(resolution_mm)}")
    network = SegResNetDS(
        spatial_dims=spatial_dims,
        init_filters=init_filters,
        in_channels=in_channels,
        out_channels=sum(heads.values()),
        act=act,
        norm=norm,
        blocks_down=tuple(blocks_down),
        blocks_up=tuple(blocks_up),
        dsdepth=deep_supervision_levels + 1,
        upsample_mode=upsample_mode,
        resolution=None if resolution_mm is None else tuple(resolution_mm),
    )
    return DenseModel(network, heads=heads, spatial_dims=spatial_dims)


def _check_levels(blocks_down: Sequence[int], blocks_up: Sequence[int]) -> None:
    if len(blocks_down) < 2 or len(blocks_up) != len(blocks_down) - 1:
        raise UsageError(
            f"model.blocks_up needs one value less than model.blocks_down, which has 2 at least; got "
            f"{list(blocks_up)} and {list(blocks_down)}"
        )

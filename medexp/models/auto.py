"""The network of nnU-Net, sized by the plan of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from medexp.core.errors import UsageError
from medexp.models.dynunet import dynunet


def planned(
    *,
    spatial_dims: int,
    in_channels: int,
    heads: Mapping[str, int],
    plan: Mapping[str, Any],
    filters: Sequence[int] | None,
    strides: Sequence[int | Sequence[int]] | None,
    kernel_size: Sequence[int | Sequence[int]] | None,
    norm: str,
    residual: bool,
    dropout: float | None,
    deep_supervision_levels: int | None,
) -> nn.Module:
    """Build a `dynunet` whose levels a plan has filled in.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        heads: Channels of each map.
        plan: What the plan kept to; the network does not depend on it any more.
        filters: Channels of each level, finest first.
        strides: Downsampling before each level; the first is 1.
        kernel_size: Kernel of each level.
        norm: Normalisation: "instance", "batch" or "group".
        residual: Residual blocks instead of plain ones.
        dropout: Probability of dropout, or None.
        deep_supervision_levels: Number of coarser maps for deep supervision.

    Returns:
        The network under the contract of dense models.

    Raises:
        UsageError: A knob is not planned yet, or `dynunet` refuses it.
    """
    if filters is None or strides is None or kernel_size is None or deep_supervision_levels is None:
        raise UsageError(
            "model=auto is sized by the plan of the dataset, which training makes when it starts; train it, or give "
            "model.filters, model.strides, model.kernel_size and model.deep_supervision_levels"
        )
    return dynunet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        heads=heads,
        filters=filters,
        strides=strides,
        kernel_size=kernel_size,
        norm=norm,
        residual=residual,
        dropout=dropout,
        deep_supervision_levels=deep_supervision_levels,
    )

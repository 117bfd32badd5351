"""MONAI's DynUNet, the network of nnU-Net, from per-level lists alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.networks.nets import DynUNet
from torch import nn

from medexp.core.errors import UsageError
from medexp.models.adapter import DenseModel

_GROUPS = 8


def dynunet(
    *,
    spatial_dims: int,
    in_channels: int,
    heads: Mapping[str, int],
    filters: Sequence[int],
    strides: Sequence[int | Sequence[int]],
    kernel_size: Sequence[int | Sequence[int]],
    norm: str,
    residual: bool,
    dropout: float | None,
    deep_supervision_levels: int,
) -> nn.Module:
    """Build the dynamic U-Net of nnU-Net (Isensee et al., Nature Methods 18, 2021) as MONAI implements it.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        heads: Channels of each map.
        filters: Channels of each level, finest first.
        strides: Downsampling before each level; the first is 1.
        kernel_size: Kernel of each level.
        norm: Normalisation: "instance", "batch" or "group" (8 groups, as in SegResNet).
        residual: Residual blocks instead of plain ones.
        dropout: Probability of dropout, or None.
        deep_supervision_levels: Number of coarser maps for deep supervision; 0 turns it off.

    Returns:
        The network under the contract of dense models.

    Raises:
        UsageError: The lists do not fit each other, or a value is out of range.
    """
    if not len(filters) == len(strides) == len(kernel_size) or len(filters) < 3:
        raise UsageError(
            f"model.filters, model.strides and model.kernel_size need one value per level and 3 levels at least, "
            f"got {len(filters)}, {len(strides)} and {len(kernel_size)}"
        )
    if strides[0] not in (1, [1] * spatial_dims, (1,) * spatial_dims):
        raise UsageError(f"model.strides needs 1 at the first level, which keeps the image's grid, got {strides[0]}")
    if not 0 <= deep_supervision_levels <= len(filters) - 2:
        raise UsageError(
            f"model.deep_supervision_levels needs 0..{len(filters) - 2} with {len(filters)} levels, "
            f"got {deep_supervision_levels}"
        )
    network = DynUNet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=sum(heads.values()),
        kernel_size=list(kernel_size),
        strides=list(strides),
        upsample_kernel_size=list(strides[1:]),
        filters=list(filters),
        norm_name=named_norm(norm, filters),
        res_block=residual,
        dropout=dropout,
        deep_supervision=deep_supervision_levels > 0,
        deep_supr_num=max(1, deep_supervision_levels),
    )
    return DenseModel(network, heads=heads, spatial_dims=spatial_dims)


def named_norm(name: str, filters: Sequence[int]) -> tuple[str, dict[str, Any]]:
    """A normalisation with learned scale and shift, as MONAI names it.

    Args:
        name: "instance", "batch" or "group".
        filters: Channels of all levels.

    Returns:
        MONAI's name and arguments.

    Raises:
        UsageError: There is no such normalisation, or groups do not divide the channels.
    """
    if name not in ("instance", "batch", "group"):
        raise UsageError(f"model.norm is instance, batch or group, got {name}")
    if name != "group":
        return name, {"affine": True}
    if any(channels % _GROUPS for channels in filters):
        raise UsageError(f"model.norm=group needs model.filters divisible by {_GROUPS}, got {list(filters)}")
    return name, {"affine": True, "num_groups": _GROUPS}

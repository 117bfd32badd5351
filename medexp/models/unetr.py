"""MONAI's UNETR for patches that its tokens cover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monai.networks.nets import UNETR
from torch import nn

from medexp.core.errors import UsageError
from medexp.models.adapter import DenseModel
from medexp.models.extras import require

_TOKEN_VOXELS = 16  # along each axis; MONAI fixes it, and the twelve layers


def unetr(
    *,
    spatial_dims: int,
    in_channels: int,
    heads: Mapping[str, int],
    img_size: Sequence[int],
    feature_size: int,
    hidden_size: int,
    mlp_dim: int,
    num_heads: int,
    proj_type: str,
    norm_name: str | Sequence[object],
    conv_block: bool,
    res_block: bool,
    dropout_rate: float,
    qkv_bias: bool,
) -> nn.Module:
    """Build UNETR (Hatamizadeh et al., WACV 2022) as MONAI implements it: twelve layers on tokens of 16 voxels.

    Positions are learned for one size of the patch, so windows of inference have that size too.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        heads: Channels of each map.
        img_size: Spatial shape of the patch.
        feature_size: Channels of the finest level of the decoder.
        hidden_size: Features of a token; a multiple of `num_heads`.
        mlp_dim: Features inside a layer's perceptron.
        num_heads: Attention heads.
        proj_type: How a token is made of its voxels, "conv" or "perceptron".
        norm_name: Normalisation of the decoder, with its arguments where it is a pair.
        conv_block: The blocks that bring tokens up have convolutions.
        res_block: Residual blocks instead of plain ones.
        dropout_rate: Probability of dropout among the tokens.
        qkv_bias: Queries, keys and values have a bias.

    Returns:
        The network under the contract of dense models.

    Raises:
        UsageError: einops is not installed, or tokens do not cover the patch.
    """
    require("einops", model="unetr")
    if any(n % _TOKEN_VOXELS for n in img_size):
        nearest = [_TOKEN_VOXELS * max(1, int(n / _TOKEN_VOXELS + 0.5)) for n in img_size]
        raise UsageError(
            f"model=unetr cuts a patch into tokens of {_TOKEN_VOXELS} voxels, which do not cover {tuple(img_size)}; "
            f"choose dataset.patch_size=[{','.join(map(str, nearest))}]"
        )
    network = UNETR(
        in_channels=in_channels,
        out_channels=sum(heads.values()),
        img_size=tuple(img_size),
        feature_size=feature_size,
        hidden_size=hidden_size,
        mlp_dim=mlp_dim,
        num_heads=num_heads,
        proj_type=proj_type,
        norm_name=norm_name,
        conv_block=conv_block,
        res_block=res_block,
        dropout_rate=dropout_rate,
        spatial_dims=spatial_dims,
        qkv_bias=qkv_bias,
    )
    for block in network.vit.blocks:
        # Of the cross-attention that UNETR has not; parameters without a gradient stop training on several GPUs.
        block.norm_cross_attn = nn.Identity()
    return DenseModel(network, heads=heads, spatial_dims=spatial_dims)

"""MONAI's Swin UNETR, with the knobs of the published networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monai.networks.nets import SwinUNETR
from torch import nn

from medexp.core.errors import UsageError
from medexp.models.adapter import DenseModel
from medexp.models.extras import require

_STAGES = 4  # of MONAI's decoder


def swin_unetr(
    *,
    spatial_dims: int,
    in_channels: int,
    heads: Mapping[str, int],
    feature_size: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    window_size: int | Sequence[int],
    mlp_ratio: float,
    qkv_bias: bool,
    norm_name: str | Sequence[object],
    drop_rate: float,
    attn_drop_rate: float,
    dropout_path_rate: float,
    normalize: bool,
    patch_norm: bool,
    downsample: str,
    use_v2: bool,
    use_checkpoint: bool,
) -> nn.Module:
    """Build Swin UNETR (Hatamizadeh et al., BrainLes 2021; version 2: He et al., MICCAI 2023) as MONAI implements it.

    A patch is halved five times, so its sides are multiples of 32, and one of them is longer than that where the maps
    are normalised by instance.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        heads: Channels of each map.
        feature_size: Channels of the finest level; a multiple of 12.
        depths: Layers of each of the four stages.
        num_heads: Attention heads of each stage; divisors of the stage's channels.
        window_size: Side of a window of attention, in tokens.
        mlp_ratio: Factor on the features inside a layer's perceptron.
        qkv_bias: Queries, keys and values have a bias.
        norm_name: Normalisation of the convolutional blocks, with its arguments where it is a pair.
        drop_rate: Probability of dropout among the tokens.
        attn_drop_rate: Probability of dropout in the attention.
        dropout_path_rate: Probability that the last layer is left out; rises linearly from the first.
        normalize: The stages' outputs are normalised.
        patch_norm: The tokens are normalised.
        downsample: "merging" or "mergingv2".
        use_v2: Each stage begins with a residual block of convolutions.
        use_checkpoint: Compute activations twice to save memory.

    Returns:
        The network under the contract of dense models.

    Raises:
        UsageError: einops is not installed, or the stages' lists do not fit.
    """
    require("einops", model="swin_unetr")
    for name, values in {"depths": depths, "num_heads": num_heads}.items():
        if len(values) != _STAGES:
            raise UsageError(f"model.{name} needs {_STAGES} values, one a stage, got {list(values)}")
    for stage, heads_of_stage in enumerate(num_heads):
        if feature_size * 2**stage % heads_of_stage:
            raise UsageError(
                f"model.num_heads[{stage}] needs a divisor of the stage's {feature_size * 2**stage} channels, "
                f"got {heads_of_stage}"
            )
    network = SwinUNETR(
        in_channels=in_channels,
        out_channels=sum(heads.values()),
        depths=tuple(depths),
        num_heads=tuple(num_heads),
        window_size=window_size,
        qkv_bias=qkv_bias,
        mlp_ratio=mlp_ratio,
        feature_size=feature_size,
        norm_name=norm_name,
        drop_rate=drop_rate,
        attn_drop_rate=attn_drop_rate,
        dropout_path_rate=dropout_path_rate,
        normalize=normalize,
        patch_norm=patch_norm,
        use_checkpoint=use_checkpoint,
        spatial_dims=spatial_dims,
        downsample=downsample,
        use_v2=use_v2,
    )
    return DenseModel(network, heads=heads, spatial_dims=spatial_dims)

"""MONAI's MedNeXt, restricted to what works in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monai.networks.nets import MedNeXt
from torch import nn

from medexp.core.errors import UsageError
from medexp.models.adapter import DenseModel


def mednext(
    *,
    spatial_dims: int,
    in_channels: int,
    heads: Mapping[str, int],
    init_filters: int,
    encoder_expansion_ratio: Sequence[int],
    bottleneck_expansion_ratio: int,
    decoder_expansion_ratio: Sequence[int],
    kernel_size: int,
    blocks_down: Sequence[int],
    blocks_bottleneck: int,
    blocks_up: Sequence[int],
    residual: bool,
    global_response_norm: bool,
    deep_supervision: bool,
) -> nn.Module:
    """Build MedNeXt (Roy et al., MICCAI 2023) as MONAI implements it, normalised channel by channel.

    MONAI's normalisation over layers fits maps of the kernel's size alone and is no knob here.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        heads: Channels of each map.
        init_filters: Channels of the finest level; each coarser level has twice as many.
        encoder_expansion_ratio: Factor on the channels inside a block, for each level of the encoder.
        bottleneck_expansion_ratio: The same at the coarsest level.
        decoder_expansion_ratio: The same for each level of the decoder, coarsest first.
        kernel_size: Of all depthwise convolutions; odd.
        blocks_down: Blocks of each level of the encoder, finest first.
        blocks_bottleneck: Blocks of the coarsest level.
        blocks_up: Blocks of each level of the decoder, coarsest first.
        residual: Blocks have residual connections, those that change the size too.
        global_response_norm: Blocks that keep or raise the size have it (Woo et al., CVPR 2023).
        deep_supervision: There is a map of each coarser level.

    Returns:
        The network under the contract of dense models.

    Raises:
        UsageError: The lists do not fit each other, or the kernel has an even size.
    """
    levels = {
        "encoder_expansion_ratio": encoder_expansion_ratio,
        "decoder_expansion_ratio": decoder_expansion_ratio,
        "blocks_up": blocks_up,
    }
    for name, values in levels.items():
        if len(values) != len(blocks_down):
            raise UsageError(
                f"model.{name} needs as many values as model.blocks_down, {len(blocks_down)}, got {list(values)}"
            )
    if kernel_size % 2 == 0:
        raise UsageError(f"model.kernel_size needs an odd number, which keeps the size of a map, got {kernel_size}")
    network = MedNeXt(
        spatial_dims=spatial_dims,
        init_filters=init_filters,
        in_channels=in_channels,
        out_channels=sum(heads.values()),
        encoder_expansion_ratio=list(encoder_expansion_ratio),
        decoder_expansion_ratio=list(decoder_expansion_ratio),
        bottleneck_expansion_ratio=bottleneck_expansion_ratio,
        kernel_size=kernel_size,
        deep_supervision=deep_supervision,
        use_residual_connection=residual,
        blocks_down=list(blocks_down),
        blocks_bottleneck=blocks_bottleneck,
        blocks_up=list(blocks_up),
        norm_type="group",
        global_resp_norm=global_response_norm,
    )
    return DenseModel(network, heads=heads, spatial_dims=spatial_dims)

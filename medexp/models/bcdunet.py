"""The U-Net with bidirectional ConvLSTM in its skip connections and a dense bottleneck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.models.adapter import DenseModel
from medexp.models.blocks import Join, Layers, Levels, PerAxis
from medexp.models.encoder_decoder import EncoderDecoder
from medexp.models.recurrence import ConvRNN


class RecurrentJoin(Join):
    """A skip connection and the map from below as a sequence of two, read in both directions (Azad et al. 2019).

    The risen map is normalised and activated first. The result is tanh(V1 * h1 + V2 * h2 + b) with the states h1 and h2
    at the end of each direction (eq. 2) and kernels V of 1.

    Args:
        layers: The style of the network's layers.
        channels: Of each of the two maps, and of the result.
        kernel_size: Kernel of the ConvLSTM along each axis; odd.
    """

    def __init__(self, *, layers: Layers, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.out_channels = channels
        # Half the channels a direction, as the authors' program has them.
        hidden = max(1, channels // 2)
        self.finish = layers.finish(channels)
        self.rnn = ConvRNN(
            dims=layers.dims,
            in_channels=channels,
            cell="lstm",
            hidden=hidden,
            layers=1,
            kernel_size=kernel_size,
            direction="both",
        )
        self.projection = layers.mixing(2 * hidden, channels)

    def forward(self, skip: Tensor, risen: Tensor) -> Tensor:
        """Both maps in one."""
        states = self.rnn(torch.stack([skip, self.finish(risen)], dim=1))
        onward, back = states.chunk(2, dim=2)
        result: Tensor = self.projection(torch.cat([onward[:, -1], back[:, 0]], dim=1)).tanh()
        return result


class DenseBottleneck(nn.Module):
    """Blocks of convolutions, each of which sees the results of all before it (Azad et al. 2019, fig. 2).

    Args:
        layers: The style of the network's layers.
        in_channels: Channels of the map.
        out_channels: Channels of each block's result.
        kernel: Of the convolutions.
        convs: Convolutions of a block.
        blocks: Number of blocks.
    """

    def __init__(
        self, *, layers: Layers, in_channels: int, out_channels: int, kernel: Sequence[int], convs: int, blocks: int
    ) -> None:
        super().__init__()
        inputs = [in_channels, *(n * out_channels for n in range(1, blocks))]
        self.blocks = nn.ModuleList(layers.units(channels, out_channels, kernel, convs) for channels in inputs)

    def forward(self, maps: Tensor) -> Tensor:
        """The result of the last block."""
        results: list[Tensor] = []
        for block in self.blocks:
            results.append(block(torch.cat(results, dim=1) if results else maps))
        return results[-1]


def bcdunet(
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
    dense_blocks: int,
    recurrent_kernel_size: int,
) -> nn.Module:
    """Build BCDU-Net (Azad et al., ICCV Workshops 2019), in 2D as published, or in 3D.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        heads: Channels of each map.
        filters: Channels of each level, finest first.
        strides: Pooling window before each level; the first is 1.
        kernel_size: Kernel of each level; odd.
        kernel_shape: Shape of the blocks' kernels: a name of `stencils.stencil`, or a nested list of 0 and 1.
        convs_per_level: Convolutions of a block, one number or one a level.
        depth: How many of the listed levels there are, from the finest on; None: all.
        width: Factor on all filters.
        pooling: "max", "average" or "strided".
        norm: "instance", "batch", "group" (8 groups) or "none".
        activation: "relu", "leaky_relu", "elu", "prelu", "gelu" or "silu".
        dropout: Probability that a channel is left out, or None.
        deep_supervision_levels: Number of coarser maps for deep supervision.
        dense_blocks: Blocks of the bottleneck; 1: a plain one.
        recurrent_kernel_size: Kernel of the ConvLSTM along each axis; odd.

    Returns:
        The network under the contract of dense models.

    Raises:
        UsageError: Knobs do not fit each other, or a value is out of range.
    """
    if dense_blocks < 1:
        raise UsageError(f"model.dense_blocks needs 1 at least, got {dense_blocks}")
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

    def bottleneck(in_channels: int, out_channels: int, level: int) -> nn.Module:
        return DenseBottleneck(
            layers=layers,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel=levels.kernels[level],
            convs=levels.convs[level],
            blocks=dense_blocks,
        )

    network = EncoderDecoder(
        layers=layers,
        levels=levels,
        in_channels=in_channels,
        out_channels=sum(heads.values()),
        deep_supervision_levels=deep_supervision_levels,
        bottleneck=bottleneck,
        join=lambda channels: RecurrentJoin(layers=layers, channels=channels, kernel_size=recurrent_kernel_size),
    )
    return DenseModel(network, heads=heads, spatial_dims=spatial_dims)

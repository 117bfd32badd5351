"""The recurrent residual U-Net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.models.adapter import DenseModel
from medexp.models.blocks import Layers, Levels, PerAxis
from medexp.models.encoder_decoder import EncoderDecoder


class RecurrentConvolution(nn.Module):
    """A convolution that sees its own result again (Liang and Hu, CVPR 2015; Alom et al. 2018, eq. 1 and 2).

    y(0) = f(W * x), y(t) = f(W * x + U * y(t - 1)); f is normalisation, dropout and activation. Each step has a
    normalisation of its own, since the steps' sums differ in mean and variance.

    Args:
        layers: The style of the network's layers.
        channels: Of the map and of the result.
        kernel: Of both convolutions.
        steps: How often the result is seen again, 1 at least.
    """

    def __init__(self, *, layers: Layers, channels: int, kernel: Sequence[int], steps: int) -> None:
        super().__init__()
        self.from_input = layers.convolution(channels, channels, kernel)
        self.from_state = layers.convolution(channels, channels, kernel)
        self.ends = nn.ModuleList(layers.finish(channels) for _ in range(steps + 1))

    def forward(self, maps: Tensor) -> Tensor:
        """The result after the last step."""
        drive = self.from_input(maps)
        state: Tensor = self.ends[0](drive)
        for end in list(self.ends)[1:]:
            state = end(drive + self.from_state(state))
        return state


class RecurrentResidual(nn.Module):
    """Recurrent convolutions around which the map passes (Alom et al. 2018, eq. 3 and fig. 4d).

    Args:
        layers: The style of the network's layers.
        in_channels: Channels of the map; a convolution with kernel 1 brings it to `out_channels` first.
        out_channels: Channels of the result.
        kernel: Of the convolutions.
        convs: Number of recurrent convolutions.
        steps: Steps of each.
    """

    def __init__(
        self, *, layers: Layers, in_channels: int, out_channels: int, kernel: Sequence[int], convs: int, steps: int
    ) -> None:
        super().__init__()
        self.entry = layers.mixing(in_channels, out_channels)
        self.recurrent = nn.Sequential(
            *(
                RecurrentConvolution(layers=layers, channels=out_channels, kernel=kernel, steps=steps)
                for _ in range(convs)
            )
        )

    def forward(self, maps: Tensor) -> Tensor:
        """The map in `out_channels`, and what the convolutions add."""
        entered = self.entry(maps)
        result: Tensor = entered + self.recurrent(entered)
        return result


def r2unet(
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
    recurrence_steps: int,
) -> nn.Module:
    """Build R2U-Net (Alom et al., arXiv:1802.06955, 2018), in 2D as published, or in 3D.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        heads: Channels of each map.
        filters: Channels of each level, finest first.
        strides: Pooling window before each level; the first is 1.
        kernel_size: Kernel of each level; odd.
        kernel_shape: Shape of the kernels: a name of `stencils.stencil`, or a nested list of 0 and 1.
        convs_per_level: Recurrent convolutions of a block, one number or one a level.
        depth: How many of the listed levels there are, from the finest on; None: all.
        width: Factor on all filters.
        pooling: "max", "average" or "strided".
        norm: "instance", "batch", "group" (8 groups) or "none".
        activation: "relu", "leaky_relu", "elu", "prelu", "gelu" or "silu".
        dropout: Probability that a channel is left out, or None.
        deep_supervision_levels: Number of coarser maps for deep supervision.
        recurrence_steps: How often a convolution sees its own result again.

    Returns:
        The network under the contract of dense models.

    Raises:
        UsageError: Knobs do not fit each other, or a value is out of range.
    """
    if recurrence_steps < 1:
        raise UsageError(f"model.recurrence_steps needs 1 at least, got {recurrence_steps}; without it see cnn_unet")
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

    def block(in_channels: int, out_channels: int, level: int) -> nn.Module:
        return RecurrentResidual(
            layers=layers,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel=levels.kernels[level],
            convs=levels.convs[level],
            steps=recurrence_steps,
        )

    network = EncoderDecoder(
        layers=layers,
        levels=levels,
        in_channels=in_channels,
        out_channels=sum(heads.values()),
        deep_supervision_levels=deep_supervision_levels,
        block=block,
    )
    return DenseModel(network, heads=heads, spatial_dims=spatial_dims)

"""What medexp's own networks are built of: levels, layers in one style, and blocks of convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.networks.layers import Conv, Dropout, Norm, Pool
from torch import Tensor, nn

from medexp.core.errors import UsageError, did_you_mean
from medexp.models.stencils import convolution

PerAxis = int | Sequence[int]

_GROUPS = 8
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "prelu": nn.PReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
_NORMS = ("instance", "batch", "group", "none")
_POOLINGS = ("max", "average", "strided")


@dataclass(frozen=True)
class Levels:
    """The levels of an encoder, finest first.

    Attributes:
        filters: Channels of each level.
        windows: Pooling window before each level; the first keeps the grid.
        kernels: Kernel of each level.
        convs: Convolutions of each level's block.
    """

    filters: tuple[int, ...]
    windows: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    convs: tuple[int, ...]

    @classmethod
    def of(
        cls,
        *,
        dims: int,
        filters: Sequence[int],
        strides: Sequence[PerAxis],
        kernel_size: Sequence[PerAxis],
        convs_per_level: PerAxis,
        depth: int | None,
        width: float | int,
    ) -> Levels:
        """The levels that the knobs of a network describe.

        Args:
            dims: Number of axes that the convolutions have.
            filters: Channels of each level, before `width`.
            strides: Window before each level, one number or one an axis; the first is 1.
            kernel_size: Kernel of each level, one number or one an axis; odd.
            convs_per_level: Convolutions of a block, one number or one a level.
            depth: How many of the listed levels there are, from the finest on; None: all.
            width: Factor on all filters, which are rounded, 1 at least.

        Returns:
            The levels.

        Raises:
            UsageError: The lists do not fit each other, or a value is out of range.
        """
        if not len(filters) == len(strides) == len(kernel_size) or len(filters) < 2:
            raise UsageError(
                "model.filters, model.strides and model.kernel_size need one value per level and 2 levels at least, "
                f"got {len(filters)}, {len(strides)} and {len(kernel_size)}"
            )
        kept = len(filters) if depth is None else depth
        if isinstance(kept, bool) or not isinstance(kept, int) or not 2 <= kept <= len(filters):
            raise UsageError(
                f"model.depth needs null or 2..{len(filters)} with {len(filters)} levels listed, got {depth}"
            )
        if not width > 0:
            raise UsageError(f"model.width needs a factor above 0, got {width}")
        convs = [convs_per_level] * len(filters) if isinstance(convs_per_level, int) else list(convs_per_level)
        _check_counts("model.filters", filters)
        _check_counts("model.convs_per_level", convs)
        if len(convs) != len(filters):
            raise UsageError(f"model.convs_per_level needs one value or {len(filters)}, one a level, got {convs}")
        return cls(
            filters=tuple(max(1, round(channels * width)) for channels in filters[:kept]),
            windows=_windows(strides, dims)[:kept],
            kernels=_kernels(kernel_size, dims)[:kept],
            convs=tuple(convs[:kept]),
        )

    @property
    def coarsest(self) -> int:
        """Number of the last level; the finest is 0."""
        return len(self.filters) - 1


def _check_counts(knob: str, values: Sequence[Any]) -> None:
    if any(isinstance(value, bool) or not isinstance(value, int) or value < 1 for value in values):
        raise UsageError(f"{knob} needs whole numbers from 1 on, got {list(values)}")


def per_axis(knob: str, values: Sequence[PerAxis], dims: int) -> tuple[tuple[int, ...], ...]:
    """A whole number from 1 on for each level and axis.

    Args:
        knob: Name of the knob, for the error.
        values: Of each level, one number or one an axis.
        dims: Number of axes.

    Returns:
        The numbers of each level.

    Raises:
        UsageError: A level has another number of values, or a value is below 1.
    """
    levels = [(level,) * dims if isinstance(level, int) else tuple(level) for level in values]
    if any(len(level) != dims for level in levels):
        raise UsageError(f"{knob} needs one number or {dims} numbers a level, got {list(values)}")
    for level in levels:
        _check_counts(knob, level)
    return tuple(levels)


def _windows(strides: Sequence[PerAxis], dims: int) -> tuple[tuple[int, ...], ...]:
    windows = per_axis("model.strides", strides, dims)
    if set(windows[0]) != {1}:
        raise UsageError(f"model.strides needs 1 at the first level, which keeps the image's grid, got {strides[0]}")
    return windows


def _kernels(sizes: Sequence[PerAxis], dims: int) -> tuple[tuple[int, ...], ...]:
    kernels = per_axis("model.kernel_size", sizes, dims)
    if any(size % 2 == 0 for kernel in kernels for size in kernel):
        raise UsageError(f"model.kernel_size needs odd numbers, whose middle is a voxel, got {list(sizes)}")
    return kernels


@dataclass(frozen=True)
class Layers:
    """Layers in the style of one network.

    Attributes:
        dims: Number of axes, 2 or 3.
        kernel_shape: Shape of all kernels, as `stencils.stencil` takes it.
        pooling: "max", "average", or "strided": a learned convolution whose kernel and stride are the window.
        norm: "instance", "batch", "group" (8 groups) or "none".
        activation: "relu", "leaky_relu", "elu", "prelu", "gelu" or "silu".
        dropout: Probability that a channel of a map is left out (Tompson et al., CVPR 2015), or None.
    """

    dims: int
    kernel_shape: str | Sequence[Any]
    pooling: str
    norm: str
    activation: str
    dropout: float | int | None

    def __post_init__(self) -> None:
        for knob, known in (("pooling", _POOLINGS), ("norm", _NORMS), ("activation", tuple(_ACTIVATIONS))):
            value = getattr(self, knob)
            if value not in known:
                raise UsageError(f"model.{knob} is {' or '.join(known)}, got {value}{did_you_mean(str(value), known)}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UsageError(f"model.dropout needs null or a probability from 0 to below 1, got {self.dropout}")

    def convolution(self, in_channels: int, out_channels: int, kernel: Sequence[int]) -> nn.Module:
        """A convolution in the network's kernel shape, with a bias only where no norm follows."""
        return convolution(
            in_channels, out_channels, kernel_size=kernel, shape=self.kernel_shape, bias=self.norm == "none"
        )

    def mixing(self, in_channels: int, out_channels: int) -> nn.Module:
        """A convolution over channels alone, with kernel 1 and a bias."""
        made: nn.Module = Conv[Conv.CONV, self.dims](in_channels, out_channels, 1)
        return made

    def normalisation(self, channels: int) -> nn.Module:
        """A normalisation with learned scale and shift.

        Args:
            channels: Of the map.

        Returns:
            The layer.

        Raises:
            UsageError: The channels cannot be dealt out to groups.
        """
        if self.norm == "none":
            return nn.Identity()
        if self.norm == "group":
            if channels % _GROUPS:
                raise UsageError(f"model.norm=group needs channels divisible by {_GROUPS} everywhere, got {channels}")
            return nn.GroupNorm(_GROUPS, channels)
        made: nn.Module = Norm[self.norm, self.dims](channels, affine=True)
        return made

    def finish(self, channels: int) -> nn.Sequential:
        """What follows a convolution: normalisation, dropout and activation."""
        layers = [self.normalisation(channels)]
        if self.dropout:
            layers.append(Dropout[Dropout.DROPOUT, self.dims](self.dropout))
        return nn.Sequential(*layers, _ACTIVATIONS[self.activation]())

    def unit(self, in_channels: int, out_channels: int, kernel: Sequence[int]) -> nn.Sequential:
        """Convolution, normalisation, dropout and activation."""
        return nn.Sequential(self.convolution(in_channels, out_channels, kernel), self.finish(out_channels))

    def units(self, in_channels: int, out_channels: int, kernel: Sequence[int], n: int) -> nn.Sequential:
        """Several units, one after the other."""
        inputs = [in_channels, *[out_channels] * (n - 1)]
        return nn.Sequential(*(self.unit(channels, out_channels, kernel) for channels in inputs))

    def pool(self, channels: int, window: tuple[int, ...]) -> nn.Module:
        """What makes a map coarser by a window; nothing where the window is one voxel."""
        if set(window) == {1}:
            return nn.Identity()
        made: nn.Module
        if self.pooling == "strided":
            made = Conv[Conv.CONV, self.dims](channels, channels, window, stride=window)
        else:
            made = Pool[Pool.MAX if self.pooling == "max" else Pool.AVG, self.dims](window)
        return made

    def unpool(self, in_channels: int, out_channels: int, window: tuple[int, ...]) -> nn.Module:
        """A transposed convolution that makes a map finer by a window, each voxel on its own."""
        made: nn.Module = Conv[Conv.CONVTRANS, self.dims](in_channels, out_channels, window, stride=window)
        return made


class Join(nn.Module):
    """Combines a skip connection and the map from below, of equally many channels each.

    Attributes:
        out_channels: Channels of the result.
    """

    out_channels: int


class Concatenation(Join):
    """A skip connection and the map from below, side by side.

    Args:
        channels: Of each of the two maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = 2 * channels

    def forward(self, skip: Tensor, risen: Tensor) -> Tensor:
        """Both maps, stacked along the channels."""
        return torch.cat([skip, risen], dim=1)

"""The U-Net with a residual encoder of nnU-Net's presets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from monai.networks.layers.factories import Conv, Dropout, Pool
from monai.networks.layers.utils import get_norm_layer
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.models.adapter import DenseModel
from medexp.models.dynunet import named_norm

_SLOPE = 0.01

Size = int | Sequence[int]


@dataclass(frozen=True)
class _Layers:
    """The layers that all levels are made of.

    Attributes:
        spatial_dims: 2 or 3.
        norm: Normalisation, as MONAI takes it.
        dropout: Probability of dropout after a convolution; 0 leaves it out.
    """

    spatial_dims: int
    norm: tuple[str, dict[str, object]]
    dropout: float

    def convolved(
        self, before: int, after: int, *, kernel: Size = 1, stride: Size = 1, bias: bool = True, dropout: bool = False
    ) -> list[nn.Module]:
        """A convolution and the normalisation of its result."""
        kernel_sizes = self.along_axes(kernel)
        convolution = Conv[Conv.CONV, self.spatial_dims](
            before, after, kernel_sizes, self.along_axes(stride), [(k - 1) // 2 for k in kernel_sizes], bias=bias
        )
        dropped = [Dropout[Dropout.DROPOUT, self.spatial_dims](self.dropout)] if dropout and self.dropout else []
        return [convolution, *dropped, get_norm_layer(self.norm, self.spatial_dims, after)]

    def along_axes(self, size: Size) -> list[int]:
        """A value for each axis."""
        return [size] * self.spatial_dims if isinstance(size, int) else list(size)


def _activation() -> nn.Module:
    return nn.LeakyReLU(_SLOPE, inplace=True)


class _Block(nn.Module):
    """Two convolutions beside a skip, which is pooled where they shrink the map (ResNet-D: He et al., CVPR 2019)."""

    def __init__(self, layers: _Layers, before: int, after: int, *, kernel: Size, stride: Size) -> None:
        super().__init__()
        first = layers.convolved(before, after, kernel=kernel, stride=stride, dropout=True)
        second = layers.convolved(after, after, kernel=kernel)
        self.path = nn.Sequential(*first, _activation(), *second)
        # Where it starts, a block passes on its skip alone, as nnU-Net begins.
        nn.init.zeros_(next(second[-1].parameters()))
        strides = layers.along_axes(stride)
        pooled = [Pool[Pool.AVG, layers.spatial_dims](strides, strides)] if any(s > 1 for s in strides) else []
        projected = layers.convolved(before, after, bias=False) if before != after else []
        self.skip = nn.Sequential(*pooled, *projected)
        self.activation = _activation()

    def forward(self, maps: Float[Tensor, "batch before *spatial"]) -> Float[Tensor, "batch after *shrunk"]:
        return self.activation(self.path(maps) + self.skip(maps))


class _UNet(nn.Module):
    """Encoder, decoder, and a map of each of the finest levels, finest first."""

    def __init__(
        self,
        layers: _Layers,
        *,
        in_channels: int,
        out_channels: int,
        filters: Sequence[int],
        strides: Sequence[Size],
        kernel_size: Sequence[Size],
        blocks: Sequence[int],
        decoder_convolutions: Sequence[int],
        n_maps: int,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(*layers.convolved(in_channels, filters[0], kernel=kernel_size[0], dropout=True))
        self.stem.append(_activation())
        self.encoder = nn.ModuleList()
        for level, (before, after) in enumerate(zip([filters[0], *filters], filters, strict=False)):
            sizes = [(before, strides[level]), *[(after, 1)] * (blocks[level] - 1)]
            kernel = kernel_size[level]
            self.encoder.append(nn.Sequential(*(_Block(layers, n, after, kernel=kernel, stride=s) for n, s in sizes)))
        self.decoder, self.ups, self.heads = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        rising = range(len(filters) - 2, -1, -1)
        for level, convolutions in zip(rising, decoder_convolutions, strict=True):
            channels, joined = filters[level], nn.Sequential()
            for before in [2 * channels, *[channels] * (convolutions - 1)]:
                joined.extend(layers.convolved(before, channels, kernel=kernel_size[level], dropout=True))
                joined.append(_activation())
            self.decoder.append(joined)
            stride = layers.along_axes(strides[level + 1])
            transposed = Conv[Conv.CONVTRANS, layers.spatial_dims](filters[level + 1], channels, stride, stride)
            self.ups.append(transposed)
            if level < n_maps:
                self.heads.append(Conv[Conv.CONV, layers.spatial_dims](channels, out_channels, 1))

    def forward(self, images: Float[Tensor, "batch channels *spatial"]) -> list[Tensor]:
        maps = self.stem(images)
        skips = []
        for level in self.encoder:
            maps = level(maps)
            skips.append(maps)
        skips.pop()
        found = []
        without_head = len(self.decoder) - len(self.heads)
        for step, (up, joined) in enumerate(zip(self.ups, self.decoder, strict=True)):
            maps = joined(torch.cat([up(maps), skips.pop()], dim=1))
            if step >= without_head:
                found.append(self.heads[step - without_head](maps))
        return found[::-1]


def resenc_unet(
    *,
    spatial_dims: int,
    in_channels: int,
    heads: Mapping[str, int],
    filters: Sequence[int],
    strides: Sequence[Size],
    kernel_size: Sequence[Size],
    blocks: Sequence[int],
    decoder_convolutions: Sequence[int],
    norm: str,
    dropout: float | None,
    deep_supervision_levels: int,
) -> nn.Module:
    """Build the U-Net with a residual encoder (Isensee et al., nnU-Net Revisited, MICCAI 2024).

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        heads: Channels of each map.
        filters: Channels of each level, finest first.
        strides: Downsampling before each level; the first is 1.
        kernel_size: Kernel of each level; odd.
        blocks: Residual blocks of each level of the encoder.
        decoder_convolutions: Convolutions of each level of the decoder, coarsest first.
        norm: Normalisation: "instance", "batch" or "group" (8 groups).
        dropout: Probability of dropout, or None.
        deep_supervision_levels: Number of coarser maps for deep supervision; 0 turns it off.

    Returns:
        The network under the contract of dense models.

    Raises:
        UsageError: The lists do not fit each other, or a value is out of range.
    """
    _check(
        filters,
        {"strides": strides, "kernel_size": kernel_size},
        {"blocks": blocks, "decoder_convolutions": decoder_convolutions},
    )
    layers = _Layers(spatial_dims, named_norm(norm, filters), dropout or 0.0)
    if any(step != 1 for step in layers.along_axes(strides[0])):
        raise UsageError(f"model.strides needs 1 at the first level, which keeps the image's grid, got {strides[0]}")
    if any(side % 2 == 0 for kernel in kernel_size for side in layers.along_axes(kernel)):
        raise UsageError(f"model.kernel_size needs odd numbers, which keep the size of a map, got {list(kernel_size)}")
    if not 0 <= deep_supervision_levels <= len(filters) - 2:
        raise UsageError(
            f"model.deep_supervision_levels needs 0..{len(filters) - 2} with {len(filters)} levels, "
            f"got {deep_supervision_levels}"
        )
    network = _UNet(
        layers,
        in_channels=in_channels,
        out_channels=sum(heads.values()),
        filters=filters,
        strides=strides,
        kernel_size=kernel_size,
        blocks=blocks,
        decoder_convolutions=decoder_convolutions,
        n_maps=deep_supervision_levels + 1,
    )
    network.apply(_initialise)
    return DenseModel(network, heads=heads, spatial_dims=spatial_dims)


def _initialise(module: nn.Module) -> None:
    """He's weights for convolutions, as nnU-Net begins with."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check(filters: Sequence[int], lists: Mapping[str, Sequence[Size]], counts: Mapping[str, Sequence[int]]) -> None:
    if len(filters) < 2:
        raise UsageError(f"model.filters needs one value a level and 2 levels at least, got {list(filters)}")
    for name, values in {**lists, **counts}.items():
        wanted = len(filters) - (name == "decoder_convolutions")
        if len(values) != wanted:
            raise UsageError(f"model.{name} needs {wanted} values with {len(filters)} levels, got {list(values)}")
    for name, numbers in counts.items():
        if any(n < 1 for n in numbers):
            raise UsageError(f"model.{name} needs whole numbers from 1 on, got {list(numbers)}")

"""The form that medexp's own networks share: an encoder, skip connections, and a decoder (Ronneberger et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.models.blocks import Concatenation, Join, Layers, Levels

Maps = Float[Tensor, "batch channels *spatial"]


# Makes a module that keeps the grid, of the channels that it gets and gives and the number of its level.
Block = Callable[[int, int, int], nn.Module]


class EncoderDecoder(nn.Module):
    """A U-Net whose blocks and joins are given (Ronneberger et al., MICCAI 2015).

    Each level pools the map of the finer one and passes it through its block. On the way back a transposed convolution
    brings a map to the finer grid and to that level's channels, a join combines it with what the encoder had there, and
    another block follows. A convolution with kernel 1 over the finest map gives the channels of the heads.

    Args:
        layers: The style of its layers.
        levels: Filters, windows, kernels and convolutions of each level.
        in_channels: Channels of the image.
        out_channels: Channels of all heads.
        deep_supervision_levels: How many coarser levels of the decoder give maps of their own in training.
        block: Makes the block of a level, in encoder and decoder; by default `convs` units of the level.
        bottleneck: Makes the block of the coarsest level where it is another one.
        join: Makes what joins two maps of so many channels; it tells its own `out_channels`.
    """

    def __init__(
        self,
        *,
        layers: Layers,
        levels: Levels,
        in_channels: int,
        out_channels: int,
        deep_supervision_levels: int,
        block: Block | None = None,
        bottleneck: Block | None = None,
        join: Callable[[int], Join] = Concatenation,
    ) -> None:
        super().__init__()
        if not 0 <= deep_supervision_levels <= levels.coarsest - 1:
            raise UsageError(
                f"model.deep_supervision_levels needs 0..{levels.coarsest - 1} with {levels.coarsest + 1} levels, "
                f"got {deep_supervision_levels}"
            )
        block = block or plain_blocks(layers, levels)
        filters, coarser = levels.filters, list(range(1, levels.coarsest + 1))
        makers = [block] * levels.coarsest + [bottleneck or block]
        inputs = (in_channels, *filters[:-1])
        self.pools = nn.ModuleList(layers.pool(inputs[level], levels.windows[level]) for level in range(len(filters)))
        self.encoders = nn.ModuleList(make(inputs[level], filters[level], level) for level, make in enumerate(makers))
        # Below, item i works on the way from level i + 1 to level i.
        self.unpools = nn.ModuleList(
            layers.unpool(filters[level], filters[level - 1], levels.windows[level]) for level in coarser
        )
        joins = [join(filters[level - 1]) for level in coarser]
        self.joins = nn.ModuleList(joins)
        self.decoders = nn.ModuleList(
            block(made.out_channels, filters[level], level) for level, made in enumerate(joins)
        )
        self.heads = nn.ModuleList(
            layers.mixing(filters[level], out_channels) for level in range(1 + deep_supervision_levels)
        )

    def encode(self, images: Maps) -> list[Tensor]:
        """The encoder's map of each level, finest first."""
        features, below = [], images
        for pool, encoder in zip(self.pools, self.encoders, strict=True):
            below = encoder(pool(below))
            features.append(below)
        return features

    def decode(self, features: list[Tensor]) -> list[Tensor]:
        """The decoder's map of each level but the coarsest, finest first, of the encoder's maps of all levels."""
        decoded, risen = [], features[-1]
        for level in reversed(range(len(self.decoders))):
            joined = self.joins[level](features[level], self.unpools[level](risen))
            risen = self.decoders[level](joined)
            decoded.append(risen)
        return decoded[::-1]

    def predict(self, decoded: list[Tensor]) -> list[Tensor]:
        """The maps of the heads, finest first; the coarser ones in training only."""
        heads = list(self.heads) if self.training else [self.heads[0]]
        return [head(maps) for head, maps in zip(heads, decoded, strict=False)]

    def forward(self, images: Maps) -> list[Tensor]:
        """The maps of the heads, finest first; one map in evaluation."""
        return self.predict(self.decode(self.encode(images)))


def plain_blocks(layers: Layers, levels: Levels) -> Block:
    """Blocks of as many units as their level asks for."""

    def make(in_channels: int, out_channels: int, level: int) -> nn.Module:
        return layers.units(in_channels, out_channels, levels.kernels[level], levels.convs[level])

    return make

"""A U-Net in the plane of each slice, with recurrence from slice to slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from medexp.core.errors import UsageError, did_you_mean
from medexp.models.adapter import DenseModel
from medexp.models.blocks import Layers, Levels, PerAxis
from medexp.models.encoder_decoder import EncoderDecoder
from medexp.models.recurrence import ConvRNN

NO_CELL = "none"
_TOP = "top"
_PLACEMENTS = ("bottleneck", "skips", "all", _TOP)


class AcrossSlices(nn.Module):
    """Recurrence over the slices' maps of one level, added to them.

    A convolution with kernel 1 brings the states to the channels of the maps. As it is added, the maps pass where the
    states have nothing to say.

    Args:
        layers: The style of the network's layers.
        channels: Channels of the maps.
        rnn: Recurrence over a sequence of such maps.
    """

    def __init__(self, *, layers: Layers, channels: int, rnn: ConvRNN) -> None:
        super().__init__()
        self.rnn = rnn
        self.projection = layers.mixing(rnn.out_channels, channels)

    def forward(self, maps: Float[Tensor, "batch_slices channels h w"], slices: int) -> Tensor:
        """The maps, of all slices of the first volume, then of the second, and so on."""
        states = self.rnn(maps.unflatten(0, (-1, slices)))
        return maps + self.projection(states.flatten(0, 1))


class SliceSequenceNet(nn.Module):
    """A network of the plane that sees each slice of a volume, and recurrence between the slices.

    Args:
        plane: The network of the plane.
        recurrence: By level of the encoder, as text, what runs over its maps; "top": over the decoder's finest maps.
        sequence_axis: Axis of the volume along which the slices lie, 0 to 2.
    """

    def __init__(self, *, plane: EncoderDecoder, recurrence: Mapping[str, nn.Module], sequence_axis: int) -> None:
        super().__init__()
        self.plane = plane
        self.recurrence = nn.ModuleDict(recurrence)
        self.sequence_axis = sequence_axis

    def forward(self, volumes: Float[Tensor, "batch channels a b c"]) -> list[Tensor]:
        """The maps of the heads, finest first; one map in evaluation."""
        sequence = volumes.movedim(self.sequence_axis + 2, 1)
        slices = sequence.shape[1]
        features = self.plane.encode(sequence.flatten(0, 1))
        features = [self._across(str(level), maps, slices) for level, maps in enumerate(features)]
        decoded = self.plane.decode(features)
        decoded[0] = self._across(_TOP, decoded[0], slices)
        return [self._volumes(maps, slices) for maps in self.plane.predict(decoded)]

    def _across(self, place: str, maps: Tensor, slices: int) -> Tensor:
        return self.recurrence[place](maps, slices) if place in self.recurrence else maps

    def _volumes(self, maps: Tensor, slices: int) -> Tensor:
        return maps.unflatten(0, (-1, slices)).movedim(1, self.sequence_axis + 2)


def convrnn_unet(
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
    sequence_axis: int,
    cell: str,
    direction: str,
    placement: str | Sequence[int | str],
    hidden: int | None,
    recurrent_layers: int,
    recurrent_kernel_size: int,
) -> nn.Module:
    """Build a U-Net in the plane with ConvLSTM (Shi 2015) or ConvGRU (Ballas 2016) from slice to slice.

    Convolutions and pooling extract features of each slice or frame, transposed convolutions restore the resolution,
    and between the slices nothing passes but the states of the recurrence. At the bottleneck it follows Poudel et al.
    (RAMBO 2016), at the top Chen et al. (NeurIPS 2016). Norms are those of a slice.

    Args:
        spatial_dims: Needs to be 3.
        in_channels: Channels of the image.
        heads: Channels of each map.
        filters: Channels of each level, finest first.
        strides: Pooling window before each level: one number for the plane, or three with 1 along `sequence_axis`.
        kernel_size: Kernel of each level: one odd number for the plane, or three with 1 along `sequence_axis`.
        kernel_shape: Shape of the kernels in the plane: a name of `stencils.stencil`, or a nested list of 0 and 1.
        convs_per_level: Convolutions of a block, one number or one a level.
        depth: How many of the listed levels there are, from the finest on; None: all.
        width: Factor on all filters.
        pooling: "max", "average" or "strided".
        norm: "instance", "batch", "group" (8 groups) or "none".
        activation: "relu", "leaky_relu", "elu", "prelu", "gelu" or "silu".
        dropout: Probability that a channel is left out, or None.
        deep_supervision_levels: Number of coarser maps for deep supervision.
        sequence_axis: Axis of the image along which the slices or frames lie, 0 to 2.
        cell: "lstm", "gru", or "none": the same network without recurrence.
        direction: "forward" (from the first slice on), "backward" or "both".
        placement: "bottleneck", "skips" (all levels but the coarsest), "all" levels, "top" (after the decoder), or a
            list of levels (0 is the finest) and "top".
        hidden: Channels of the state of each direction; None: as many as the maps there have.
        recurrent_layers: Layers of cells at each place.
        recurrent_kernel_size: Kernel of the cells in the plane; odd.

    Returns:
        The network under the contract of dense models.

    Raises:
        UsageError: Images in 2D, knobs that do not fit each other, or a value out of range.
    """
    _check_axes(spatial_dims, sequence_axis)
    levels = Levels.of(
        dims=2,
        filters=filters,
        strides=in_plane("model.strides", strides, sequence_axis),
        kernel_size=in_plane("model.kernel_size", kernel_size, sequence_axis),
        convs_per_level=convs_per_level,
        depth=depth,
        width=width,
    )
    layers = Layers(
        dims=2, kernel_shape=kernel_shape, pooling=pooling, norm=norm, activation=activation, dropout=dropout
    )
    plane = EncoderDecoder(
        layers=layers,
        levels=levels,
        in_channels=in_channels,
        out_channels=sum(heads.values()),
        deep_supervision_levels=deep_supervision_levels,
    )

    def rnn(channels: int) -> ConvRNN:
        return ConvRNN(
            dims=2,
            in_channels=channels,
            cell=cell,
            hidden=channels if hidden is None else hidden,
            layers=recurrent_layers,
            kernel_size=recurrent_kernel_size,
            direction=direction,
        )

    places = [] if cell == NO_CELL else _places(placement, levels.coarsest)
    recurrence = {
        place: AcrossSlices(layers=layers, channels=channels, rnn=rnn(channels))
        for place in places
        for channels in [levels.filters[0 if place == _TOP else int(place)]]
    }
    network = SliceSequenceNet(plane=plane, recurrence=recurrence, sequence_axis=sequence_axis)
    return DenseModel(network, heads=heads, spatial_dims=spatial_dims)


def _check_axes(spatial_dims: int, sequence_axis: int) -> None:
    if spatial_dims != 3:
        raise UsageError(
            f"model=convrnn_unet needs volumes or sequences of frames, 3 axes, and the dataset has {spatial_dims}; "
            "choose model=cnn_unet"
        )
    if sequence_axis not in (0, 1, 2):
        raise UsageError(f"model.sequence_axis needs 0, 1 or 2, got {sequence_axis}")


def in_plane(knob: str, values: Sequence[PerAxis], sequence_axis: int) -> list[PerAxis]:
    """Windows or kernels of the plane.

    Args:
        knob: Name of the knob, for the error.
        values: Of each level, one number for the plane or three for the axes of the volume.
        sequence_axis: Axis that is not in the plane.

    Returns:
        Of each level, one number or two.

    Raises:
        UsageError: A level has another number of values, or is not 1 along the sequence.
    """
    for value in values:
        if not isinstance(value, int) and (len(value) != 3 or value[sequence_axis] != 1):
            raise UsageError(
                f"{knob} needs one number for the plane, or three with 1 along model.sequence_axis={sequence_axis}, "
                f"at each level, got {list(value)}"
            )
    return [
        value if isinstance(value, int) else [n for axis, n in enumerate(value) if axis != sequence_axis]
        for value in values
    ]


def _places(placement: str | Sequence[int | str], coarsest: int) -> list[str]:
    """The levels that have recurrence, as text, and "top"."""
    levels = [str(level) for level in range(coarsest + 1)]
    words = {"bottleneck": levels[-1:], "skips": levels[:-1], "all": levels, _TOP: [_TOP]}
    if isinstance(placement, str):
        if placement not in words:
            raise UsageError(
                f"model.placement is {' or '.join(_PLACEMENTS)} or a list of levels, got {placement}"
                f"{did_you_mean(placement, _PLACEMENTS)}"
            )
        return words[placement]
    places = [str(place) for place in placement]
    if not places or len(set(places)) < len(places) or not set(places) <= {*levels, _TOP}:
        raise UsageError(f"model.placement lists levels from 0 to {coarsest} and top, each once, got {list(placement)}")
    return places

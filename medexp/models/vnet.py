"""MONAI's V-Net with the dropout that is asked for, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.networks.layers.factories import Dropout
from monai.networks.nets import VNet
from torch import nn

from medexp.core.errors import UsageError
from medexp.models.adapter import DenseModel

_FIRST_CHANNELS = 16
_DOWN = ("down_tr128", "down_tr256")
_UP = ("up_tr256", "up_tr128")
_SKIPS = ("up_tr256", "up_tr128", "up_tr64", "up_tr32")


def vnet(
    *,
    spatial_dims: int,
    in_channels: int,
    heads: Mapping[str, int],
    act: str | Sequence[Any],
    bias: bool,
    dropout_down: float,
    dropout_up: float,
    dropout_skip: float,
) -> nn.Module:
    """Build V-Net (Milletari et al., 3DV 2016) as MONAI implements it, with batch normalisation and 16 to 256 channels.

    MONAI's class ignores its `dropout_dim`, drops whole samples of a batch in 2D, and drops half the channels of the
    two finer skip connections whatever it is told. Here the four modules' dropout is set anew.

    Args:
        spatial_dims: 2 or 3.
        in_channels: Channels of the image; a divisor of 16, as the first layer adds the image to its output.
        heads: Channels of each map.
        act: Activation, with its arguments where it is a pair.
        bias: The encoder's convolutions have a bias.
        dropout_down: Probability that a channel is dropped in the two coarser levels of the encoder.
        dropout_up: The same where the two coarser levels of the decoder begin.
        dropout_skip: The same in all four skip connections.

    Returns:
        The network under the contract of dense models.

    Raises:
        UsageError: The number of the image's channels does not divide 16, or a probability is none.
    """
    if _FIRST_CHANNELS % in_channels:
        raise UsageError(
            f"model=vnet repeats the image to {_FIRST_CHANNELS} channels, which {in_channels} do not divide; choose "
            "another model, or a dataset with 1, 2, 4, 8 or 16 channels"
        )
    rates = {"dropout_down": dropout_down, "dropout_up": dropout_up, "dropout_skip": dropout_skip}
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise UsageError(f"model.{name} needs a probability from 0 up to 1, got {rate}")
    network = VNet(
        spatial_dims=spatial_dims, in_channels=in_channels, out_channels=sum(heads.values()), act=act, bias=bias
    )
    dropout = Dropout[Dropout.DROPOUT, spatial_dims]
    for names, attribute, rate in (
        (_DOWN, "dropout", dropout_down),
        (_UP, "dropout", dropout_up),
        (_SKIPS, "dropout2", dropout_skip),
    ):
        for name in names:
            setattr(getattr(network, name), attribute, dropout(rate))
    return DenseModel(network, heads=heads, spatial_dims=spatial_dims)

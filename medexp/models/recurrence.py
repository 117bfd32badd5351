"""Recurrence over a sequence of maps, whose states are maps too: ConvLSTM and ConvGRU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from monai.networks.layers import Conv
from torch import Tensor, nn

from medexp.core.errors import UsageError

Sequence = Float[Tensor, "batch steps channels *spatial"]
States = Float[Tensor, "batch steps hidden *spatial"]


def _convolution(dims: int, in_channels: int, out_channels: int, kernel_size: int, *, bias: bool) -> Any:
    return Conv[Conv.CONV, dims](in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)


class ConvLSTM(nn.Module):
    """A layer of convolutional LSTM cells (Shi et al., NeurIPS 2015, eq. 3), without peepholes.

    i, f, o = sigmoid(W * x + U * h), g = tanh(W * x + U * h), c' = f c + i g, h' = o tanh(c'). A peephole has a weight
    for each voxel, which would tie the network to one size of patch. The bias of the forget gate starts higher by 1
    (Jozefowicz et al., ICML 2015). States start at zero, in the precision of the weights.

    Args:
        dims: Number of axes of a map, 2 or 3.
        in_channels: Channels of a map.
        hidden: Channels of the state.
        kernel_size: Voxels along each axis of the kernels W and U; odd.
    """

    def __init__(self, *, dims: int, in_channels: int, hidden: int, kernel_size: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.from_input = _convolution(dims, in_channels, 4 * hidden, kernel_size, bias=True)
        self.from_state = _convolution(dims, hidden, 4 * hidden, kernel_size, bias=False)
        with torch.no_grad():
            self.from_input.bias[hidden : 2 * hidden] += 1

    def forward(self, sequence: Sequence, *, backward: bool) -> States:
        """The state h after each map, at the map's own place in the sequence; backward from the last map on."""
        drives = _drives(self.from_input, sequence)
        h = c = _zeros(drives[0], self.hidden, self.from_state.weight.dtype)
        states: list[Tensor] = []
        for drive in reversed(drives) if backward else drives:
            i, f, g, o = (drive + self.from_state(h)).chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            states.append(h)
        return torch.stack(states[::-1] if backward else states, dim=1)


class ConvGRU(nn.Module):
    """A layer of convolutional GRU cells (Ballas et al., ICLR 2016, eq. 4 to 7).

    z, r = sigmoid(W * x + U * h), n = tanh(W * x + U * (r h)), h' = (1 - z) h + z n. States start at zero, in the
    precision of the weights.

    Args:
        dims: Number of axes of a map, 2 or 3.
        in_channels: Channels of a map.
        hidden: Channels of the state.
        kernel_size: Voxels along each axis of the kernels W and U; odd.
    """

    def __init__(self, *, dims: int, in_channels: int, hidden: int, kernel_size: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.from_input = _convolution(dims, in_channels, 3 * hidden, kernel_size, bias=True)
        self.gates_from_state = _convolution(dims, hidden, 2 * hidden, kernel_size, bias=False)
        self.candidate_from_state = _convolution(dims, hidden, hidden, kernel_size, bias=False)

    def forward(self, sequence: Sequence, *, backward: bool) -> States:
        """The state h after each map, at the map's own place in the sequence; backward from the last map on."""
        drives = _drives(self.from_input, sequence)
        h = _zeros(drives[0], self.hidden, self.candidate_from_state.weight.dtype)
        states: list[Tensor] = []
        for drive in reversed(drives) if backward else drives:
            gates, candidate = drive.split([2 * self.hidden, self.hidden], dim=1)
            z, r = (gates + self.gates_from_state(h)).sigmoid().chunk(2, dim=1)
            n = (candidate + self.candidate_from_state(r * h)).tanh()
            h = (1 - z) * h + z * n
            states.append(h)
        return torch.stack(states[::-1] if backward else states, dim=1)


def _drives(from_input: nn.Module, sequence: Tensor) -> tuple[Tensor, ...]:
    """What each map adds to the gates, of all maps at once."""
    driven = from_input(sequence.flatten(0, 1))
    return driven.unflatten(0, (-1, sequence.shape[1])).unbind(1)


def _zeros(drive: Tensor, hidden: int, dtype: torch.dtype) -> Tensor:
    """The state before the first map; under autocast it keeps the full precision of the weights, and sums in it."""
    return torch.zeros_like(drive[:, :hidden], dtype=dtype)


_CELLS: Mapping[str, type[nn.Module]] = {"lstm": ConvLSTM, "gru": ConvGRU}
_DIRECTIONS: Mapping[str, tuple[bool, ...]] = {"forward": (False,), "backward": (True,), "both": (False, True)}


class ConvRNN(nn.Module):
    """Layers of convolutional recurrence over a sequence of maps, in one direction or in both.

    The states of both directions are stacked along the channels, after each layer, as in a bidirectional RNN.

    Args:
        dims: Number of axes of a map, 2 or 3.
        in_channels: Channels of a map.
        cell: "lstm" or "gru".
        hidden: Channels of the state of each direction.
        layers: Number of layers.
        kernel_size: Voxels along each axis of the cells' kernels; odd.
        direction: "forward", "backward" or "both".
    """

    def __init__(
        self, *, dims: int, in_channels: int, cell: str, hidden: int, layers: int, kernel_size: int, direction: str
    ) -> None:
        super().__init__()
        if direction not in _DIRECTIONS:
            raise UsageError(f"model.direction is {' or '.join(_DIRECTIONS)}, got {direction}")
        if cell not in _CELLS:
            raise UsageError(f"model.cell is {', '.join(_CELLS)} or none, got {cell}")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise UsageError(f"model.recurrent_kernel_size needs an odd number from 1 on, got {kernel_size}")
        if layers < 1 or hidden < 1:
            raise UsageError(f"model.recurrent_layers and model.hidden need 1 at least, got {layers} and {hidden}")
        self.backward = _DIRECTIONS[direction]
        self.out_channels = hidden * len(self.backward)
        inputs = [in_channels, *[self.out_channels] * (layers - 1)]
        # One after the other: each layer has an item for each direction.
        self.runs = nn.ModuleList(
            _CELLS[cell](dims=dims, in_channels=channels, hidden=hidden, kernel_size=kernel_size)
            for channels in inputs
            for _ in self.backward
        )

    def forward(self, sequence: Sequence) -> States:
        """The states of the last layer at each place of the sequence."""
        for first in range(0, len(self.runs), len(self.backward)):
            states = [self.runs[first + i](sequence, backward=backward) for i, backward in enumerate(self.backward)]
            sequence = torch.cat(states, dim=2)
        return sequence

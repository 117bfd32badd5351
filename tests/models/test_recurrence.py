"""Convolutional recurrence against torch's own LSTM and GRU, which it is where kernels are 1."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medexp.core.errors import UsageError
from medexp.models.recurrence import ConvGRU, ConvLSTM, ConvRNN

torch.set_num_threads(1)
KNOBS = {"dims": 2, "in_channels": 3, "hidden": 4, "layers": 1, "kernel_size": 3, "direction": "both"}


def _by_voxel(sequence: torch.Tensor) -> torch.Tensor:
    """(batch, steps, channels, *spatial) as a batch of sequences of vectors."""
    return sequence.flatten(3).permute(0, 3, 1, 2).flatten(0, 1)


@pytest.mark.parametrize("dims", [2, 3])
def test_an_lstm_with_kernels_of_one_is_torchs_lstm_at_each_voxel(dims: int) -> None:
    cell = ConvLSTM(dims=dims, in_channels=3, hidden=4, kernel_size=1)
    reference = nn.LSTM(3, 4, batch_first=True)
    with torch.no_grad():
        reference.weight_ih_l0.copy_(cell.from_input.weight.flatten(1))
        reference.bias_ih_l0.copy_(cell.from_input.bias)
        reference.weight_hh_l0.copy_(cell.from_state.weight.flatten(1))
        reference.bias_hh_l0.zero_()
    sequence = torch.randn(2, 5, 3, *[3] * dims)
    expected, _ = reference(_by_voxel(sequence))
    torch.testing.assert_close(_by_voxel(cell(sequence, backward=False)), expected)
    expected, _ = reference(_by_voxel(sequence).flip(1))
    torch.testing.assert_close(_by_voxel(cell(sequence, backward=True)), expected.flip(1))


def test_a_gru_with_kernels_of_one_is_torchs_gru_where_both_definitions_agree() -> None:
    # torch resets after the product, Ballas before: the same for a diagonal matrix. Its z is Ballas' 1 - z.
    cell = ConvGRU(dims=2, in_channels=3, hidden=4, kernel_size=1)
    reference = nn.GRU(3, 4, batch_first=True)
    with torch.no_grad():
        cell.candidate_from_state.weight.mul_(torch.eye(4)[:, :, None, None])
        z, r, n = cell.from_input.weight.flatten(1).chunk(3)
        reference.weight_ih_l0.copy_(torch.cat([r, -z, n]))
        z, r, n = cell.from_input.bias.chunk(3)
        reference.bias_ih_l0.copy_(torch.cat([r, -z, n]))
        z, r = cell.gates_from_state.weight.flatten(1).chunk(2)
        reference.weight_hh_l0.copy_(torch.cat([r, -z, cell.candidate_from_state.weight.flatten(1)]))
        reference.bias_hh_l0.zero_()
    sequence = torch.randn(2, 5, 3, 3, 3)
    expected, _ = reference(_by_voxel(sequence))
    torch.testing.assert_close(_by_voxel(cell(sequence, backward=False)), expected)


def test_the_state_of_a_gru_is_reset_before_its_convolution() -> None:
    cell = ConvGRU(dims=2, in_channels=1, hidden=2, kernel_size=3)
    first, second = torch.randn(2, 1, 1, 5, 5).unbind(0)
    states = cell(torch.stack([first, second], dim=1), backward=False)
    h = states[:, 0]
    drive = cell.from_input(second)
    z, r = torch.sigmoid(drive[:, :4] + cell.gates_from_state(h)).split(2, dim=1)
    n = torch.tanh(drive[:, 4:] + cell.candidate_from_state(r * h))
    torch.testing.assert_close(states[:, 1], (1 - z) * h + z * n)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_both_directions_are_one_direction_and_the_other_side_by_side(cell: str) -> None:
    torch.manual_seed(0)
    both = ConvRNN(**KNOBS, cell=cell)
    sequence = torch.randn(1, 4, 3, 5, 5)
    states = both(sequence)
    assert states.shape == (1, 4, both.out_channels, 5, 5)
    mirrored = both.runs[1](sequence.flip(1), backward=False).flip(1)
    torch.testing.assert_close(states[:, :, 4:], mirrored)
    torch.testing.assert_close(states[:, :, :4], both.runs[0](sequence, backward=False))


def test_a_second_layer_runs_over_the_states_of_the_first() -> None:
    deep = ConvRNN(**(KNOBS | {"layers": 2, "direction": "forward"}), cell="gru")
    sequence = torch.randn(1, 4, 3, 5, 5)
    first = deep.runs[0](sequence, backward=False)
    torch.testing.assert_close(deep(sequence), deep.runs[1](first, backward=False))


def test_the_state_keeps_full_precision_under_autocast() -> None:
    cell = ConvLSTM(dims=2, in_channels=1, hidden=2, kernel_size=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert cell(torch.randn(1, 2, 1, 4, 4), backward=False).dtype == torch.float32
    half = cell.to(torch.bfloat16)
    assert half(torch.randn(1, 2, 1, 4, 4, dtype=torch.bfloat16), backward=False).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"cell": "rnn"}, "model.cell is lstm, gru or none, got rnn"),
        ({"direction": "up"}, "model.direction is forward or backward or both"),
        ({"kernel_size": 2}, "model.recurrent_kernel_size needs an odd number"),
        ({"layers": 0}, "model.recurrent_layers and model.hidden need 1"),
    ],
)
def test_a_knob_out_of_range_is_refused_by_name(knobs, told: str) -> None:
    with pytest.raises(UsageError) as error:
        ConvRNN(**(KNOBS | {"cell": "lstm"} | knobs))
    assert told in str(error.value)

"""Recurrence carries information from slice to slice, and nothing else does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medexp.core.errors import UsageError
from medexp.data.sources.phantom_sequence import SequenceRecipe, draw_sequence
from medexp.models.convrnn_unet import convrnn_unet

torch.set_num_threads(1)
KNOBS: dict[str, Any] = {
    "filters": [4, 6, 8],
    "strides": [1, 2, 2],
    "kernel_size": [3, 3, 3],
    "kernel_shape": "square",
    "convs_per_level": 1,
    "depth": None,
    "width": 1.0,
    "pooling": "max",
    "norm": "instance",
    "activation": "leaky_relu",
    "dropout": None,
    "deep_supervision_levels": 0,
    "sequence_axis": 2,
    "cell": "lstm",
    "direction": "both",
    "placement": "bottleneck",
    "hidden": None,
    "recurrent_layers": 1,
    "recurrent_kernel_size": 3,
}
SLICES, CHANGED = 5, 2


def built(**knobs) -> nn.Module:
    torch.manual_seed(0)
    return convrnn_unet(spatial_dims=3, in_channels=1, heads={"semantic": 2}, **(KNOBS | knobs))


def slices_that_change(model: nn.Module, axis: int) -> list[int]:
    """Which slices of the output differ after slice 2 of the input has changed."""
    shape = [8, 8, 8]
    shape[axis] = SLICES
    images = torch.randn(1, 1, *shape)
    changed = images.clone()
    changed.select(axis + 2, CHANGED).normal_()
    with torch.no_grad():
        before, after = (model.eval()(volume)["semantic"] for volume in (images, changed))
    differs = (before != after).movedim(axis + 2, 0).flatten(1).any(dim=1)
    return [k for k, differ in enumerate(differs.tolist()) if differ]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("cell", ["lstm", "gru", "none"])
@pytest.mark.parametrize(
    ("direction", "reached"), [("forward", [2, 3, 4]), ("backward", [0, 1, 2]), ("both", range(5))]
)
def test_a_slice_reaches_those_that_follow_it_in_the_direction_of_the_recurrence(
    axis, cell, direction, reached
) -> None:
    expected = [CHANGED] if cell == "none" else list(reached)
    assert slices_that_change(built(cell=cell, direction=direction, sequence_axis=axis), axis) == expected


@pytest.mark.parametrize("placement", ["bottleneck", "skips", "all", "top", [0, 2, "top"]])
def test_each_place_carries_information(placement) -> None:
    assert slices_that_change(built(placement=placement, direction="forward"), 2) == [2, 3, 4]


@pytest.mark.parametrize(
    ("placement", "places"),
    [
        ("bottleneck", {"2"}),
        ("skips", {"0", "1"}),
        ("all", {"0", "1", "2"}),
        ("top", {"top"}),
        ([0, "top"], {"0", "top"}),
    ],
)
def test_recurrence_stands_where_it_is_placed_and_the_rest_is_the_network_without_it(placement, places) -> None:
    model, without = (built(placement=placement, cell=cell) for cell in ("lstm", "none"))
    assert set(model.network.recurrence) == places
    rest = {name: value.shape for name, value in model.state_dict().items() if ".recurrence." not in name}
    assert rest == {name: value.shape for name, value in without.state_dict().items()}


@pytest.mark.parametrize(
    "knobs",
    [{"cell": "gru"}, {"direction": "forward"}, {"placement": "top"}, {"hidden": 3}, {"recurrent_layers": 2},
     {"recurrent_kernel_size": 1}],
    ids=lambda knobs: next(iter(knobs)),
)  # fmt: skip
def test_each_knob_of_the_recurrence_changes_its_weights(knobs: dict[str, Any]) -> None:
    shapes = [{name: value.shape for name, value in built(**given).state_dict().items()} for given in ({}, knobs)]
    assert shapes[0] != shapes[1]


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"sequence_axis": 3}, "model.sequence_axis needs 0, 1 or 2"),
        ({"strides": [1, 2, [2, 2, 2]]}, "model.strides needs one number for the plane, or three with 1 along"),
        ({"kernel_size": [3, 3, [3, 3, 3]]}, "model.kernel_size needs one number for the plane"),
        ({"placement": "botleneck"}, "did you mean bottleneck"),
        ({"placement": [3]}, "model.placement lists levels from 0 to 2 and top"),
        ({"placement": [0, 0]}, "each once"),
        ({"placement": []}, "model.placement lists levels"),
        ({"cell": "rnn"}, "model.cell is lstm, gru or none, got rnn"),
        ({"hidden": 0}, "model.recurrent_layers and model.hidden need 1"),
    ],
)
def test_a_knob_out_of_range_is_refused_by_name(knobs: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as error:
        built(**knobs)
    assert told in str(error.value)


def test_pictures_are_refused() -> None:
    with pytest.raises(UsageError, match="choose model=cnn_unet"):
        convrnn_unet(spatial_dims=2, in_channels=1, heads={"semantic": 2}, **KNOBS)


def _dice_after_training(cell: str) -> float:
    """Dice on sequences that the network has not seen."""
    recipe = SequenceRecipe(shape=(16, 16, 4), spacing_mm=(1.0, 1.0, 1.0), lag=1, noise=0.02, seed=0)
    drawn = [draw_sequence(recipe, index) for index in range(40)]
    pixels = torch.from_numpy(np.stack([image for image, _ in drawn]))
    masks = torch.from_numpy(np.stack([mask for _, mask in drawn])).long()
    model = built(cell=cell, filters=[6, 12], strides=[1, 2], kernel_size=[3, 3])
    steps = torch.optim.AdamW(model.parameters(), lr=0.02)
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))
    for step in range(80):
        part = slice(8 * (step % 4), 8 * (step % 4) + 8)
        steps.zero_grad()
        loss(model(pixels[part])["semantic"], masks[part]).backward()
        steps.step()
    with torch.no_grad():
        found, truth = model.eval()(pixels[32:])["semantic"].argmax(dim=1) == 1, masks[32:] == 1
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


def test_it_finds_what_only_a_neighbouring_slice_tells_and_the_same_network_without_recurrence_does_not() -> None:
    assert _dice_after_training("lstm") > 0.9
    assert _dice_after_training("none") < 0.5

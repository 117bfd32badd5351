"""Affinities and their losses against loops over pairs of voxels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from medexp.tasks.representations.affinity import Affinity, at_offsets

SETTINGS = {"diagonals": True, "weight": 1.0}


@pytest.mark.parametrize("dims", [2, 3])
def test_offsets_are_the_neighbours_and_then_one_of_two_opposite_ways_for_each_distance(dims):
    settings = {"spatial_dims": dims, "long_range_px": [2, 5], "criterion": "dice", "weight": 1.0}
    directions = Affinity(**settings, diagonals=True).directions()["affinity"]
    assert directions[:dims].tolist() == np.eye(dims).tolist()
    for distance, part in zip((2, 5), np.split(directions[dims:], 2), strict=True):
        both = {tuple(way) for way in np.concatenate([part, -part]).tolist()}
        assert both == set(itertools.product((-distance, 0, distance), repeat=dims)) - {(0,) * dims}
        assert len(part) == (3**dims - 1) / 2
    straight = Affinity(**settings, diagonals=False).directions()["affinity"]
    assert straight[dims:].tolist() == np.concatenate([2 * np.eye(dims), 5 * np.eye(dims)]).tolist()


def test_what_lies_at_an_offset_is_that_voxel_or_outside():
    values = torch.arange(12).reshape(1, 1, 3, 4)
    offsets = [(0, 1), (2, -1), (-1, 0), (5, 0), (0, -4)]
    there = at_offsets(values, offsets, outside=-1)
    for channel, offset in enumerate(offsets):
        for at in itertools.product(range(3), range(4)):
            row, column = np.add(at, offset)
            expected = values[0, 0, row, column].item() if 0 <= row < 3 and 0 <= column < 4 else -1
            assert there[(0, channel, *at)].item() == expected


@pytest.mark.parametrize("shape", [(7, 6), (4, 5, 4)])
def test_pairs_count_where_both_are_known_and_one_is_in_an_object(shape):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 3, (2, 1, *shape)).astype(np.int32)
    known = rng.random((2, 1, *shape)) < 0.8
    losses = {}
    for criterion in ("dice", "bce"):
        affinity = Affinity(spatial_dims=len(shape), long_range_px=[2], criterion=criterion, **SETTINGS)
        said = np.random.default_rng(1).normal(size=(2, len(affinity.offsets), *shape))
        given = {"affinity": [torch.from_numpy(said)]}, {"affinity": torch.from_numpy(ids)}, torch.from_numpy(known)
        (losses[criterion],) = affinity.loss(*given).values()
    dice, entropies = [], []
    for channel, offset in enumerate(affinity.offsets):
        pairs = []
        for image, *at in itertools.product(range(2), *map(range, shape)):
            other = np.add(at, offset)
            if (other < 0).any() or (other >= shape).any():
                continue
            first, second = (image, 0, *at), (image, 0, *other)
            if known[first] and known[second] and (ids[first] or ids[second]):
                together = 1 / (1 + np.exp(-said[(image, channel, *at)]))
                pairs.append((1 - together, float(ids[first] != ids[second])))
        likely, truth = np.array(pairs).T
        dice.append(1 - 2 * (likely * truth).sum() / ((likely**2).sum() + (truth**2).sum()))
        entropies += list(-np.log(np.where(truth == 1, likely, 1 - likely)))
    assert losses["dice"].item() == pytest.approx(np.mean(dice), rel=1e-4)
    assert losses["bce"].item() == pytest.approx(np.mean(entropies), rel=1e-5)

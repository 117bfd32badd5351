"""Flows of heat against the published scheme, voxel by voxel, and what follows from symmetry."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import ndimage

from medexp.core.heat_flow import heat_flows


def by_loops(instances: np.ndarray) -> np.ndarray:
    """The scheme for objects in one piece, one after the other."""
    flows = np.zeros((instances.ndim, *instances.shape))
    steps = [
        step
        for step in itertools.product((-1, 0, 1), repeat=instances.ndim)
        if instances.ndim == 2 or sum(map(abs, step)) <= 1
    ]
    n_steps = 2 * max(sum(s.stop - s.start for s in each) for each in ndimage.find_objects(instances))
    for number in range(1, instances.max() + 1):
        voxels = {tuple(place) for place in np.argwhere(instances == number).tolist()}
        median = np.median(sorted(voxels), axis=0)
        source = min(sorted(voxels), key=lambda place: ((np.array(place) - median) ** 2).sum())
        heat = dict.fromkeys(voxels, 0.0)
        for _ in range(n_steps):
            heat[source] += 1
            heat = {
                at: sum(heat.get(tuple(np.add(at, step).tolist()), 0.0) for step in steps) / len(steps) for at in voxels
            }
        for at in voxels:
            for axis, unit in enumerate(np.eye(instances.ndim, dtype=int)):
                up, down = (heat.get(tuple(np.add(at, sign * unit).tolist()), 0.0) for sign in (1, -1))
                flows[(axis, *at)] = np.log1p(up) - np.log1p(down)
    length = np.linalg.norm(flows, axis=0)
    return np.divide(flows, length, out=np.zeros_like(flows), where=length > 1e-12)


@pytest.mark.parametrize("shape", [(11, 14), (5, 6, 7)])
def test_flows_of_touching_objects_are_those_of_the_published_scheme(shape):
    instances = np.zeros(shape, np.int32)
    instances[1:4, 2:5] = 1
    instances[1:5, 5:] = 2
    instances[4, 1] = 3
    assert np.abs(heat_flows(instances) - by_loops(instances)).max() < 1e-6


@pytest.mark.parametrize("dims", [2, 3])
def test_in_a_ball_they_point_to_its_middle(dims):
    places = np.indices((19,) * dims) - 9.0
    radius = np.linalg.norm(places, axis=0)
    flows = heat_flows((radius < 8.6).astype(np.int32))
    inside = (radius < 8.6) & (radius > 0)
    cosine = -(flows * places).sum(axis=0)[inside] / radius[inside]
    assert cosine.min() > np.cos(np.radians(20))
    assert np.linalg.norm(flows, axis=0)[inside] == pytest.approx(1, abs=1e-5)
    assert not flows[:, radius >= 8.6].any()


def test_they_turn_and_flip_with_the_image():
    rng = np.random.default_rng(0)
    instances, _ = ndimage.label(ndimage.gaussian_filter(rng.random((24, 30)), 2) > 0.51)
    # Where two voxels are equally near to the median, the first is the source: leave such objects out.
    odd = instances * 0
    for number, (rows, columns) in enumerate(ndimage.find_objects(instances), start=1):
        at = np.argwhere(instances == number)
        away = ((at - np.median(at, axis=0)) ** 2).sum(axis=1)
        if (away == away.min()).sum() == 1:
            odd[rows, columns][instances[rows, columns] == number] = number
    assert odd.any()
    plain = heat_flows(odd)
    assert np.allclose(heat_flows(np.ascontiguousarray(odd.T)), plain[::-1].transpose(0, 2, 1), atol=1e-6)
    flipped = plain[:, ::-1] * np.array([-1, 1])[:, None, None]
    assert np.allclose(heat_flows(np.ascontiguousarray(odd[::-1])), flipped, atol=1e-6)


def test_each_part_of_an_object_has_its_own_middle():
    instances = np.zeros((7, 15), np.int32)
    instances[1:6, 1:6] = instances[1:6, 9:14] = 4
    apart = instances.copy()
    apart[:, 8:] *= 2
    assert np.array_equal(heat_flows(instances), heat_flows(apart))


def test_a_single_voxel_and_an_empty_image_have_none():
    one = np.zeros((5, 5), np.int32)
    assert not heat_flows(one).any()
    one[2, 2] = 1
    assert not heat_flows(one).any()

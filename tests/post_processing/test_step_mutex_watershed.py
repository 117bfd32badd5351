from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from parallel_predictions import predict

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Kind
from medexp.post_processing.chain import Chain
from medexp.post_processing.mutex_watershed import MutexWatershed


@pytest.fixture(autouse=True)
def _library():
    pytest.importorskip("mwatershed")


def pairs(offset: tuple[int, ...], foreground: np.ndarray) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    inside = {tuple(at) for at in np.argwhere(foreground).tolist()}
    for at in sorted(inside):
        other = tuple(np.add(at, offset).tolist())
        if other in inside:
            yield at, other


def by_loops(affinity: np.ndarray, offsets: list[tuple[int, ...]], foreground: np.ndarray, stride: int) -> np.ndarray:
    """Algorithm 1 of the paper with sets: clusters and mutual exclusions."""
    edges = []
    for channel, offset in enumerate(offsets):
        attracts = channel < foreground.ndim
        for at, other in pairs(offset, foreground):
            if attracts or not any(each % stride for each in at):
                pull = affinity[(channel, *at)]
                edges.append((pull if attracts else 1 - pull, attracts, at, other))
    cluster = {tuple(at): frozenset([tuple(at)]) for at in np.argwhere(foreground).tolist()}
    apart: set[frozenset] = set()
    for _, attracts, first, second in sorted(edges, key=lambda edge: -edge[0]):
        one, two = cluster[first], cluster[second]
        if one != two and not attracts:
            apart.add(frozenset([one, two]))
        elif one != two and frozenset([one, two]) not in apart:
            joined = one | two
            apart = {frozenset(joined if each in (one, two) else each for each in pair) for pair in apart}
            cluster.update(dict.fromkeys(joined, joined))
    numbers = np.zeros(foreground.shape, int)
    for number, members in enumerate(dict.fromkeys(cluster.values()), start=1):
        numbers[tuple(np.array(sorted(members)).T)] = number
    return numbers


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("shape", "far"), [((7, 9), [(0, 3), (3, 0), (2, -2), (9, 0)]), ((4, 5, 4), [(0, 0, 2), (2, 0, 0), (-2, 2, 0)])]
)
def test_objects_are_those_of_the_published_algorithm(shape, far, stride):
    rng = np.random.default_rng(0)
    offsets = [tuple(row) for row in np.eye(len(shape), dtype=int).tolist()] + far
    affinity = rng.random((len(offsets), *shape)).astype(np.float32)
    foreground = rng.random(shape) < 0.85
    prediction = predict(foreground * 0.8, {"affinity": affinity}, directions={"affinity": np.array(offsets) * 1.0})
    found = MutexWatershed(stride_px=stride)(prediction).instances
    assert found.max() > 3
    assert np.array_equal(found, by_loops(affinity, offsets, foreground, stride))


def row(near: list[float], far: list[float], *directions: tuple[float, float], foreground=None, **fields):
    """A row of pixels with an affinity to the next one along either axis, and one to a far one."""
    size = len(near)
    affinity = np.array([[0.0] * size, near, far])[:, None]
    directions = directions or ((1.0, 0.0), (0.0, 1.0), (0.0, 3.0))
    soft = np.array([foreground or [0.9] * size])
    return predict(soft, {"affinity": affinity}, directions={"affinity": np.array(directions)}, **fields)


def test_a_weak_attraction_joins_unless_something_repels():
    near = [0.9, 0.9, 0.2, 0.9, 0.9, 0.0]
    assert MutexWatershed()(row(near, [0.9] * 6)).instances.tolist() == [[1] * 6]
    assert MutexWatershed()(row(near, [0.9, 0.1, 0.9, 0.9, 0.9, 0.9])).instances.tolist() == [[1, 1, 1, 2, 2, 2]]


def test_stretched_offsets_lead_to_the_neighbour_and_to_the_nearest_far_voxel():
    near, far = [0.9, 0.9, 0.2, 0.9, 0.9, 0.0], [0.9, 0.1, 0.9, 0.9, 0.9, 0.9]
    stretched = ((0.4, 0.1), (0.0, 2.0), (0.3, 3.4))
    assert MutexWatershed()(row(near, far, *stretched)).instances.tolist() == [[1, 1, 1, 2, 2, 2]]
    back = ((1.0, 0.0), (0.0, -1.0), (0.0, -3.0))
    turned = MutexWatershed()(row(near[::-1], far[::-1], *back)).instances
    assert turned.tolist() == [[1, 1, 1, 2, 2, 2]]
    vanished = ((1.0, 0.0), (0.0, 1.0), (0.0, 0.4))
    assert MutexWatershed()(row(near, far, *vanished)).instances.tolist() == [[1] * 6]


def test_what_is_foreground_and_large_enough_are_objects():
    prediction = row([0.9] * 4, [0.9] * 4, foreground=[0.9, 0.9, 0.0, 0.4], spacing=(2.0, 1.0))
    assert MutexWatershed()(prediction).instances.tolist() == [[1, 1, 0, 0]]
    assert MutexWatershed(foreground_threshold=0.3)(prediction).instances.tolist() == [[1, 1, 0, 2]]
    assert not MutexWatershed(min_volume_mm3=4.1)(prediction).instances.any()


def test_it_leads_from_affinities_to_instances():
    Chain([MutexWatershed()], takes=Kind.AFFINITIES, gives=Kind.INSTANCES)


def test_a_map_without_its_directions_is_refused():
    prediction = row([0.9] * 4, [0.9] * 4)
    with pytest.raises(DataError, match=r"a direction of 2 components for each of 3 affinities, got none"):
        MutexWatershed()(replace(prediction, directions={}))
    with pytest.raises(DataError, match=r"got an array of shape \(1, 2\)"):
        MutexWatershed()(replace(prediction, directions={"affinity": np.ones((1, 2))}))


def test_without_the_library_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mwatershed", None)
    with pytest.raises(UsageError, match=r"needs mwatershed, .*; run: pip install \"medexp\[instances\]\""):
        MutexWatershed()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"foreground_threshold": 0.0}, r"mutex_watershed\.foreground_threshold needs a probability"),
        ({"stride_px": 0}, r"mutex_watershed\.stride_px needs a whole number from 1 on"),
        ({"min_volume_mm3": -1.0}, r"mutex_watershed\.min_volume_mm3 needs a finite value"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs, message):
    with pytest.raises(UsageError, match=message):
        MutexWatershed(**knobs)

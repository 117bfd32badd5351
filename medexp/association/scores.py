"""The Cell Tracking Challenge's scores of a tracked sequence: SEG, DET and TRA.

Sources: P. Matula et al., Cell tracking accuracy measurement based on comparison of acyclic oriented graphs, PLoS ONE
10 (2015), for DET and TRA; M. Maska et al., A benchmark for comparison of cell tracking algorithms, Bioinformatics 30
(2014), for SEG.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
from jaxtyping import Integer

from medexp.core.errors import DataError
from medexp.core.overlaps import overlaps
from medexp.core.tracks import TrackedSequence

Node = tuple[int, int]
Frames = Mapping[int, Integer[np.ndarray, "*spatial"]]

# What it costs to correct a graph: split a vertex, add one, delete one; delete an edge, add one, change its meaning.
_SPLIT, _MISSED, _SPURIOUS = 5.0, 10.0, 1.0
_EDGE_SPURIOUS, _EDGE_MISSED, _EDGE_OTHER = 1.0, 1.5, 1.0


def tracking_scores(
    result: TrackedSequence, reference: TrackedSequence, segmentation: Frames | None = None
) -> dict[str, float]:
    """Compare tracks with a reference.

    An object of the reference is found if an object of the result covers more than half of it.

    Args:
        result: Tracks.
        reference: Markers of the same frames with their tracks (01_GT/TRA).
        segmentation: Outlines of the objects of some frames (01_GT/SEG); None leaves SEG out.

    Returns:
        "SEG" the intersection over union of each outlined object with what found it, 0 where nothing did, averaged over
        objects; "DET" and "TRA" 1 minus the cost of correcting vertices, and vertices and edges, over the cost of
        building the reference's graph, and 0 where correcting costs more. nan where the reference has no object.

    Raises:
        DataError: Frames of the reference and of the result differ in number or shape.
    """
    _check_frames(result.sequence.frames, reference.sequence.frames, every=True)
    scores = {}
    if segmentation is not None:
        _check_frames(result.sequence.frames, segmentation, every=False)
        scores["SEG"] = _seg(result.sequence.frames, segmentation)
    found = _found(result.sequence.frames, reference.sequence.frames)
    known, told = _nodes(reference.sequence.frames), _nodes(result.sequence.frames)
    most = Counter(found.values())
    vertices = _SPLIT * sum(count - 1 for count in most.values())
    vertices += _MISSED * (len(known) - len(found)) + _SPURIOUS * (len(told) - len(most))
    unique = {node: by for node, by in found.items() if most[by] == 1}
    known_edges = _edges(reference, known)
    edges = _edge_costs(_edges(result, told), known_edges, unique)
    scores["DET"] = _part(vertices, _MISSED * len(known))
    scores["TRA"] = _part(vertices + edges, _MISSED * len(known) + _EDGE_MISSED * len(known_edges))
    return scores


def _part(cost: float, of_all: float) -> float:
    return 1.0 - min(cost, of_all) / of_all if of_all > 0 else math.nan


def _check_frames(
    result: Mapping[int, Integer[np.ndarray, "..."]],
    reference: Mapping[int, Integer[np.ndarray, "..."]],
    *,
    every: bool,
) -> None:
    missing = sorted(set(reference) - set(result) | (set(result) - set(reference) if every else set()))
    if missing:
        raise DataError(
            f"result and reference need the same frames, got frame {missing[0]} in one only ({len(missing)} such "
            "frames); give the whole sequence"
        )
    for frame, image in reference.items():
        if image.shape != result[frame].shape:
            shapes = f"{result[frame].shape} and {image.shape}"
            raise DataError(f"frame {frame} of result and reference needs one shape, got {shapes}; undo the resampling")


def _seg(result: Frames, segmentation: Frames) -> float:
    total, objects = 0.0, 0
    for frame, image in segmentation.items():
        objects += len(np.unique(image[image > 0]))
        shared = overlaps(image, result[frame])
        total += float(shared.iou[shared.of_first > 0.5].sum())
    return total / objects if objects else math.nan


def _found(result: Frames, reference: Frames) -> dict[Node, Node]:
    """The objects of the reference that were found, each with what found it."""
    return {
        (frame, known): (frame, told)
        for frame, image in reference.items()
        for known, told in found_objects(result[frame], image).items()
    }


def found_objects(
    result: Integer[np.ndarray, "*spatial"], reference: Integer[np.ndarray, "*spatial"]
) -> dict[int, int]:
    """The objects of a frame that were found: those of which an object of the result covers more than half.

    Args:
        result: Ids, 0 where there is none.
        reference: Ids on the same grid.

    Returns:
        Id in the result by id in the reference.
    """
    shared = overlaps(reference, result)
    half = shared.of_first > 0.5
    return dict(zip(shared.first[half].tolist(), shared.second[half].tolist(), strict=True))


def _nodes(frames: Frames) -> set[Node]:
    return {(frame, int(identity)) for frame, image in frames.items() for identity in np.unique(image[image > 0])}


def _edges(tracked: TrackedSequence, nodes: set[Node]) -> dict[tuple[Node, Node], bool]:
    """The edges between objects that are there, and whether each leads from a parent."""
    last = {track.identity: track.last for track in tracked.tracks}
    edges = {}
    for track in tracked.tracks:
        for frame in range(track.first, track.last):
            edges[(frame, track.identity), (frame + 1, track.identity)] = False
        if track.parent:
            edges[(last[track.parent], track.parent), (track.first, track.identity)] = True
    return {edge: parental for edge, parental in edges.items() if nodes.issuperset(edge)}


def _edge_costs(
    told: Mapping[tuple[Node, Node], bool], known: Mapping[tuple[Node, Node], bool], unique: Mapping[Node, Node]
) -> float:
    """The cost of correcting the edges between objects that each found one object of the reference."""
    names = {by: node for node, by in unique.items()}
    renamed = {(names[a], names[b]): parental for (a, b), parental in told.items() if a in names and b in names}
    other = sum(known[edge] != parental for edge, parental in renamed.items() if edge in known)
    spurious, missed = len(renamed.keys() - known.keys()), len(known.keys() - renamed.keys())
    return _EDGE_SPURIOUS * spurious + _EDGE_MISSED * missed + _EDGE_OTHER * other

"""From links between the instances of frames to tracks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Integer

from medexp.core.tracks import Sequence, Track, TrackedSequence

Node = tuple[int, int]


def tracks_along(
    sequence: Sequence, ids: Mapping[int, Integer[np.ndarray, "objects"]], links: Collection[tuple[Node, Node]]
) -> TrackedSequence:
    """Follow links; a track ends where its object divides, disappears, or is missing from the next frame.

    Args:
        sequence: The frames.
        ids: Ids of the objects of each frame, ascending.
        links: Pairs of (frame, id), the earlier first; no object has two that are earlier.

    Returns:
        The frames with ids of tracks, from 1 on in the order of their first frame and of their ids there.
    """
    before = {later: earlier for earlier, later in links}
    children = Counter(earlier for earlier, _ in links)
    track_of: dict[Node, int] = {}
    tracks: dict[int, Track] = {}
    for frame, present in ids.items():
        for node in ((frame, int(identity)) for identity in present):
            earlier = before.get(node)
            if earlier is not None and children[earlier] == 1 and earlier[0] == frame - 1:
                identity = track_of[earlier]
                tracks[identity] = replace(tracks[identity], last=frame)
            else:
                identity = len(tracks) + 1
                parent = 0 if earlier is None else track_of[earlier]
                tracks[identity] = Track(identity, frame, frame, parent)
            track_of[node] = identity
    frames = {
        frame: _renamed(image, ids[frame], [track_of[frame, int(identity)] for identity in ids[frame]])
        for frame, image in sequence.frames.items()
    }
    return TrackedSequence(replace(sequence, frames=frames), tuple(tracks.values()))


def _renamed(
    image: Integer[np.ndarray, "*spatial"], ids: Integer[np.ndarray, "objects"], names: list[int]
) -> Integer[np.ndarray, "*spatial"]:
    renamed = np.zeros(image.shape, dtype=np.int32)
    renamed[image > 0] = np.array(names, dtype=np.int32)[np.searchsorted(ids, image[image > 0])]
    return renamed

"""Objects over time: which instance of which frame is which object, and which divided into which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Integer

from medexp.core.geometry import Geometry


@dataclass(frozen=True)
class Track:
    """One object over time.

    Attributes:
        identity: Its id, that of its voxels in the images of tracks.
        first: First frame in which it is.
        last: Last one.
        parent: Id of the track that divided into it, or that it goes on after a gap; 0 where there is none.
    """

    identity: int
    first: int
    last: int
    parent: int


@dataclass(frozen=True, eq=False)
class Sequence:
    """Instances of consecutive frames, on one grid.

    Attributes:
        name: Name of the sequence.
        frames: Instance ids by number of the frame, 0 where there is none; in ascending order of numbers.
        geometry: The grid of each frame.
    """

    name: str
    frames: Mapping[int, Integer[np.ndarray, "*spatial"]]
    geometry: Geometry

    def between(self, first: int, last: int) -> Sequence:
        """The frames from one number to another, both included."""
        return replace(self, frames={number: self.frames[number] for number in self.frames if first <= number <= last})


@dataclass(frozen=True, eq=False)
class TrackedSequence:
    """A sequence whose instance ids are those of tracks.

    Attributes:
        sequence: The frames, in which an object keeps its id.
        tracks: All tracks, in ascending order of ids; each is in all frames from its first to its last.
    """

    sequence: Sequence
    tracks: tuple[Track, ...]

    def between(self, first: int, last: int) -> TrackedSequence:
        """The frames from one number to another, both included, and the parts of the tracks that lie in them.

        A track whose parent ended before has none.
        """
        inside = [track for track in self.tracks if track.first <= last and track.last >= first]
        kept = {track.identity for track in inside}
        cut = [
            Track(
                identity=track.identity,
                first=max(track.first, first),
                last=min(track.last, last),
                parent=track.parent if track.parent in kept else 0,
            )
            for track in inside
        ]
        return TrackedSequence(sequence=self.sequence.between(first, last), tracks=tuple(cut))

from __future__ import annotations

import numpy as np

from medexp.core.geometry import Geometry
from medexp.core.tracks import Sequence, Track, TrackedSequence


def test_a_part_of_a_sequence_has_the_parts_of_its_tracks() -> None:
    frames = {number: np.full((2, 2), number) for number in range(3, 9)}
    tracks = (Track(1, 3, 4, 0), Track(2, 3, 5, 0), Track(3, 5, 8, 1), Track(4, 6, 8, 2), Track(5, 8, 8, 0))
    whole = TrackedSequence(Sequence("01", frames, Geometry.from_spacing((2, 2), (1.0, 1.0))), tracks)
    part = whole.between(5, 7)
    assert list(part.sequence.frames) == [5, 6, 7]
    assert part.tracks == (Track(2, 5, 5, 0), Track(3, 5, 7, 0), Track(4, 6, 7, 2))
    assert whole.between(0, 99).tracks == tracks

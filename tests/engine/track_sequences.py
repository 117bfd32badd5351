"""Small tracked sequences to draw, and what is seen in their pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from medexp.core.geometry import Geometry
from medexp.core.tracks import Sequence, Track, TrackedSequence

SHAPE = (40, 60)
# A frame of 60 pixels is shown ten times as large.
ZOOM = 10

Centre = tuple[int, ...]


def tracked_of(
    centres: Mapping[int, Mapping[int, Centre]],
    parents: Mapping[int, int] | None = None,
    *,
    geometry: Geometry | None = None,
    radius: int = 2,
) -> TrackedSequence:
    """Squares or cubes around centres, by frame and track."""
    geometry = geometry or Geometry.from_spacing(SHAPE, (1.0, 1.0), unit="px")
    frames = {}
    for frame, found in centres.items():
        frames[frame] = np.zeros(geometry.shape, dtype=np.int32)
        for identity, centre in found.items():
            frames[frame][tuple(slice(at - radius, at + radius + 1) for at in centre)] = identity
    tracks = []
    for identity in sorted({identity for found in centres.values() for identity in found}):
        seen = [frame for frame, found in centres.items() if identity in found]
        tracks.append(Track(identity, min(seen), max(seen), (parents or {}).get(identity, 0)))
    return TrackedSequence(Sequence("cells/01", frames, geometry), tuple(tracks))


def family() -> tuple[TrackedSequence, dict[int, dict[int, Centre]]]:
    """Track 1 moves on; 2 divides into 3 and 4 at frame 2; 5 is lost in frames 2 and 3 and goes on as 6."""
    centres: dict[int, dict[int, Centre]] = {frame: {1: (5, 5 + 8 * frame)} for frame in range(5)}
    for frame in (0, 1):
        centres[frame] |= {2: (20, 10 + 6 * frame), 5: (35, 10 + 8 * frame)}
    for frame in (2, 3, 4):
        centres[frame] |= {3: (15, 14 + 6 * frame), 4: (25, 14 + 6 * frame)}
    centres[4] |= {6: (35, 50)}
    return tracked_of(centres, {3: 2, 4: 2, 6: 5}), centres


def rgb_of(path: Path) -> list[np.ndarray]:
    """The frames of a GIF or a PNG."""
    with Image.open(path) as image:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]


def at(picture: np.ndarray, row: float, column: float) -> tuple[int, ...]:
    """The colour in the middle of a pixel of the frame."""
    return tuple(picture[int((row + 0.5) * ZOOM), int((column + 0.5) * ZOOM)].tolist())

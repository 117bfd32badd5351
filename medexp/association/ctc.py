"""Tracked sequences in the layout of results of the Cell Tracking Challenge.

Source: the challenge's naming and content conventions (https://public.celltrackingchallenge.net/documents).
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import tifffile

from medexp.core.errors import DataError, UsageError
from medexp.core.files import write_atomic, write_text
from medexp.core.tracks import TrackedSequence

_MOST = np.iinfo(np.uint16).max


def write_result(tracked: TrackedSequence, folder: Path) -> list[Path]:
    """Write a label image of 16 bits for each frame, mask000.tif, mask001.tif, ..., and the table res_track.txt.

    Args:
        tracked: The tracks.
        folder: Where to (01_RES, by custom); made where it does not exist.

    Returns:
        The files.

    Raises:
        DataError: There are more tracks than 16 bits can tell apart.
        UsageError: The folder holds frames of another result.
    """
    name, frames = tracked.sequence.name, tracked.sequence.frames
    most = max((track.identity for track in tracked.tracks), default=0)
    if most > _MOST:
        raise DataError(
            f"sequence {name} needs ids of tracks up to {_MOST} (16 bits), got {most}; remove small instances, or cut "
            "the sequence"
        )
    digits = max(3, len(str(max(frames, default=0))))
    files = {folder / f"mask{frame:0{digits}d}.tif": image for frame, image in frames.items()}
    foreign = sorted(path for path in folder.glob("mask*.tif") if path not in files)
    if foreign:
        raise UsageError(f"{folder} needs to hold no frames but those of {name}, got {foreign[0].name}; remove it")
    for path, image in files.items():
        _write_image(path, image.astype(np.uint16))
    table = folder / "res_track.txt"
    lines = [f"{track.identity} {track.first} {track.last} {track.parent}\n" for track in tracked.tracks]
    write_text(table, "".join(lines))
    return [*files, table]


def _write_image(path: Path, image: np.ndarray) -> None:
    buffer = BytesIO()
    tifffile.imwrite(buffer, image, photometric="minisblack")
    write_atomic(path, lambda stream: stream.write(buffer.getvalue()))

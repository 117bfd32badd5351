"""What is measured of tracks: where an object is, how far and how fast it moves, and how it grows."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from jaxtyping import Float

from medexp.association.frames import centres_mm
from medexp.core.tracks import TrackedSequence


def places_of(tracked: TrackedSequence) -> pd.DataFrame:
    """Centre and size of each track in each of its frames.

    Args:
        tracked: The tracks.

    Returns:
        A row per frame and track, in the order of tracks and frames: sequence, track, frame, the centre along each axis
        of the array from the middle of the first voxel (`center_0_mm`, ...), and `area_mm2` or `volume_mm3`; with px in
        place of mm where the frames have no physical scale.
    """
    sequence, geometry = tracked.sequence, tracked.sequence.geometry
    columns = ["sequence", "track", "frame", *_center_columns(tracked), size_column(tracked)]
    rows = []
    for frame, image in sequence.frames.items():
        ids, voxels = np.unique(image[image > 0], return_counts=True)
        centres = centres_mm(sequence, frame).tolist()
        sizes = (voxels * geometry.voxel_volume_mm3).tolist()
        for identity, centre, size in zip(ids.tolist(), centres, sizes, strict=True):
            rows.append((sequence.name, identity, frame, *centre, size))
    return pd.DataFrame(rows, columns=columns).sort_values(["track", "frame"], ignore_index=True)


def measured_tracks(tracked: TrackedSequence, places: pd.DataFrame) -> pd.DataFrame:
    """What is measured of each track as a whole.

    Args:
        tracked: The tracks.
        places: What `places_of` says of them.

    Returns:
        A row per track: sequence, track, first, last, parent, `path_length_mm` the sum of the ways from frame to frame,
        `net_displacement_mm` from the first to the last, `mean_speed_mm_per_frame`, the mean size, and
        `growth_per_frame`, the slope of the logarithm of its size by least squares. Speed and growth are nan for a
        track of one frame.
    """
    unit, size = tracked.sequence.geometry.unit, size_column(tracked)
    by_track = dict(list(places.groupby("track")))
    rows = []
    for track in tracked.tracks:
        own = by_track[track.identity]
        ways = np.diff(own[_center_columns(tracked)].to_numpy(np.float64), axis=0)
        path = float(np.linalg.norm(ways, axis=1).sum())
        steps = track.last - track.first
        rows.append(
            {
                "sequence": tracked.sequence.name,
                "track": track.identity,
                "first": track.first,
                "last": track.last,
                "parent": track.parent,
                f"path_length_{unit}": path,
                f"net_displacement_{unit}": float(np.linalg.norm(ways.sum(axis=0))),
                f"mean_speed_{unit}_per_frame": path / steps if steps else math.nan,
                f"mean_{size}": float(own[size].mean()),
                "growth_per_frame": _growth(own["frame"].to_numpy(np.float64), own[size].to_numpy(np.float64)),
            }
        )
    return pd.DataFrame(rows)


def size_column(tracked: TrackedSequence) -> str:
    """Name of the column of sizes, with its unit."""
    geometry = tracked.sequence.geometry
    return f"area_{geometry.unit}2" if geometry.spatial_dims == 2 else f"volume_{geometry.unit}3"


def _center_columns(tracked: TrackedSequence) -> list[str]:
    geometry = tracked.sequence.geometry
    return [f"center_{axis}_{geometry.unit}" for axis in range(geometry.spatial_dims)]


def _growth(frames: Float[np.ndarray, "frames"], sizes: Float[np.ndarray, "frames"]) -> float:
    centred = frames - frames.mean()
    spread = float(centred @ centred)
    return float(centred @ np.log(sizes)) / spread if spread > 0 else math.nan

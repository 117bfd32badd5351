"""Which track each instance of a frame belongs to."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from medexp.core.faults import Fault, Severity

_NAMED = 5


def tracks_by_markers(
    instances: Integer[np.ndarray, "*spatial"],
    markers: Integer[np.ndarray, "*spatial"],
    marked: Integer[np.ndarray, "markers"],
) -> list[int]:
    """The track of each instance: that of the marker more than half of which it covers.

    This is the rule by which the Cell Tracking Challenge matches objects (Matula et al., PLoS ONE 2015).

    Args:
        instances: Ids 1 to n, 0 where there is none.
        markers: Numbers 1 to m of the markers.
        marked: Track of each marker.

    Returns:
        A track for each instance, 0 where it covers no marker; of several markers that of which it covers most voxels.
    """
    n_instances, n_markers = int(instances.max(initial=0)), len(marked)
    voxels = np.bincount(markers.reshape(-1), minlength=n_markers + 1)
    pairs = instances.reshape(-1).astype(np.int64) * (n_markers + 1) + markers.reshape(-1)
    found, shared = np.unique(pairs[pairs > 0], return_counts=True)
    tracks, most = [0] * n_instances, [0] * n_instances
    for pair, n_shared in zip(found.tolist(), shared.tolist(), strict=True):
        instance, marker = divmod(pair, n_markers + 1)
        if instance > 0 and marker > 0 and 2 * n_shared > voxels[marker] and n_shared > most[instance - 1]:
            tracks[instance - 1], most[instance - 1] = int(marked[marker - 1]), n_shared
    return tracks


def contradictions(
    tracks: Collection[int], marked: Collection[int], listed: Collection[int], *, case_id: str, file: Path
) -> tuple[Fault, ...]:
    """What instances, markers and the table of tracks say differently of a frame, as warnings.

    Args:
        tracks: Track of each instance, 0 where it has none.
        marked: Tracks that have a marker.
        listed: Tracks that the table has in this frame.
        case_id: The case.
        file: The image of the markers.

    Returns:
        The faults.
    """
    found = [
        ("in the table without a marker", sorted(set(listed) - set(marked))),
        ("marked but not in the table", sorted(set(marked) - set(listed))),
        ("marked without an instance", sorted(set(marked) - set(tracks))),
    ]
    texts = [f"{len(ids)} tracks {what} ({_named(ids)})" for what, ids in found if ids]
    unmarked = [number for number, track in enumerate(tracks, start=1) if track == 0]
    texts += [f"{len(unmarked)} instances without a marker ({_named(unmarked)})"] if unmarked else []
    if not texts:
        return ()
    expected = "one marker and one instance of each track that man_track.txt has in this frame"
    remedy = "look at them; what has no track cannot be linked"
    return (Fault("track_ids", expected, ", ".join(texts), remedy, case_id, file, Severity.WARNING),)


def _named(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:_NAMED])) + (", ..." if len(ids) > _NAMED else "")

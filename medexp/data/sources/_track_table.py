"""Tables of tracks as the Cell Tracking Challenge writes them.

Source: the challenge's naming and content conventions (https://public.celltrackingchallenge.net/documents).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medexp.core.faults import Fault
from medexp.core.tracks import Track
from medexp.data.sources._file_faults import missing, unreadable

_NAMED = 3


def read_tracks(path: Path) -> tuple[Mapping[int, Track], tuple[Fault, ...]]:
    """Read a table, a track a line: id, first frame, last frame, parent.

    Args:
        path: The file.

    Returns:
        The tracks by id, and what is wrong with the file; a track that contradicts itself or its parent is among them.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return {}, (missing(path),)
    except (OSError, UnicodeDecodeError) as error:
        return {}, (unreadable(path, error, kind="a table of tracks"),)
    tracks: dict[int, Track] = {}
    broken: list[str] = []
    for number, line in enumerate(lines, start=1):
        track = _track(line)
        if track is not None and track.identity not in tracks:
            tracks[track.identity] = track
        elif line.strip():
            broken.append(f"{line.strip()!r} in line {number}" + ("" if track is None else ", an id that occurs twice"))
    broken += [text for track in tracks.values() if (text := _contradiction(track, tracks)) is not None]
    if not broken:
        return tracks, ()
    expected = "in each line an id of its own, the first and last frame, and a parent that ended before or 0"
    found = "; ".join(broken[:_NAMED]) + (f"; and {len(broken) - _NAMED} more" if broken[_NAMED:] else "")
    return tracks, (Fault("track_table", expected, found, "correct these lines", file=path),)


def _track(line: str) -> Track | None:
    """The track of a line; None where it is not four whole numbers."""
    words = line.split()
    if len(words) != 4 or not all(word.isdecimal() for word in words):
        return None
    identity, first, last, parent = map(int, words)
    return Track(identity, first, last, parent) if identity > 0 else None


def _contradiction(track: Track, tracks: Mapping[int, Track]) -> str | None:
    parent = tracks.get(track.parent)
    if track.last < track.first:
        return f"track {track.identity} from frame {track.first} to {track.last}"
    if track.parent == 0:
        return None
    if parent is None:
        return f"track {track.identity} of the parent {track.parent}, which is not listed"
    if parent.last >= track.first:
        return f"track {track.identity} from frame {track.first}, whose parent {track.parent} ends in {parent.last}"
    return None

"""Frames of sequences, read from a folder: instances, images, and tracks in the Cell Tracking Challenge's layout."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from jaxtyping import Float, Integer

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Fault
from medexp.core.geometry import Geometry
from medexp.core.tracks import Sequence, TrackedSequence
from medexp.data.sources._files import read_image, read_labels, stem
from medexp.data.sources._track_table import read_tracks

# Case ids of sequences (01_t000) and of slices (liver_z012), with what saved predictions end in.
_NAMED = re.compile(r"(?P<sequence>.+)_[tz](?P<frame>\d+)(?P<instances>_instances)?")
# Files of the challenge, whose folder says the sequence.
_CHALLENGE = re.compile(r"(?:mask|man_seg|man_track)(?P<frame>\d+)")
_TABLES = ("man_track.txt", "res_track.txt")
_FOLDER = re.compile(r"(?P<sequence>.+)_(?:GT|ST|RES|ERR_SEG)")


def find_frames(folder: Path) -> dict[str, dict[int, Path]]:
    """The files of instances in a folder, by sequence and number of the frame.

    Files are called SEQUENCE_tNNN or SEQUENCE_zNNN, with _instances behind or not, or as in the Cell Tracking Challenge
    (man_segNNN, man_trackNNN, maskNNN), whose sequence is named by the folder (01 of 01_GT/SEG). Where some end in
    _instances, only these are taken, as others hold masks of classes then.

    Args:
        folder: The folder, or that of a run, whose `predictions` are taken then.

    Returns:
        Sequences by name, frames in ascending order.

    Raises:
        UsageError: There is no such folder, or no such file in it.
        DataError: Two files are the same frame, or a frame is missing between two others.
    """
    place = folder / "predictions" if (folder / "predictions").is_dir() else folder
    if not place.is_dir():
        raise UsageError(f"{folder} needs to be a folder of instance images, got none; correct its name")
    names = {path: stem(path.name) for path in sorted(place.iterdir()) if not path.name.startswith(".")}
    found = [(path, _NAMED.fullmatch(name)) for path, name in names.items() if name is not None]
    named = [(match["sequence"], int(match["frame"]), path, match["instances"]) for path, match in found if match]
    chosen = [row[:3] for row in named if row[3] is not None] or [row[:3] for row in named]
    if not chosen:
        matches = [(path, _CHALLENGE.fullmatch(name)) for path, name in names.items() if name is not None]
        chosen = [(_sequence_of(place), int(match["frame"]), path) for path, match in matches if match]
    if not chosen:
        raise UsageError(
            f"{place} needs files SEQUENCE_tNNN_instances.nii.gz, .png or .tif, got none; record the run with "
            "save_predictions=true and a chain that ends in instances"
        )
    return _by_sequence(chosen)


def read_frames(
    name: str, files: Mapping[int, Path], *, spatial_dims: int, spacing_mm: tuple[float, ...] | None = None
) -> Sequence:
    """Read the frames of a sequence.

    Args:
        name: Name of the sequence.
        files: File by number of the frame.
        spatial_dims: Axes of a frame, 2 or 3.
        spacing_mm: Distance of voxels along each axis of the array; None takes what the files say.

    Returns:
        The sequence.

    Raises:
        DataError: A file is damaged, has negative ids, or another shape than the others.
    """
    frames: dict[int, Integer[np.ndarray, "*spatial"]] = {}
    geometry: Geometry | None = None
    for frame, path in files.items():
        case_id = f"{name}_t{frame:03d}"
        ids, grid = read_labels(path, case_id=case_id, spatial_dims=spatial_dims)
        geometry = geometry or grid
        if ids.shape != geometry.shape:
            fault = Fault("shape_mismatch", f"shape {geometry.shape}", str(ids.shape), "crop it", case_id, path)
            raise DataError.of(fault)
        if ids.min(initial=0) < 0:
            fault = Fault("instance_ids", "ids from 0 on", str(ids.min()), "number objects from 1 on", case_id, path)
            raise DataError.of(fault)
        frames[frame] = ids
    assert geometry is not None
    if spacing_mm is not None:
        geometry = Geometry.from_spacing(geometry.shape, spacing_mm)
    return Sequence(name, frames, geometry)


def read_tracked(
    name: str,
    folder: Path,
    *,
    spatial_dims: int,
    table: str = "man_track.txt",
    spacing_mm: tuple[float, ...] | None = None,
) -> TrackedSequence:
    """Read frames of tracks with their table.

    Args:
        name: Name of the sequence.
        folder: Holds the frames and the table.
        spatial_dims: Axes of a frame, 2 or 3.
        table: Name of the table's file; res_track.txt for a result.
        spacing_mm: Distance of voxels along each axis of the array; None takes what the files say.

    Returns:
        The tracks.

    Raises:
        DataError: A file is damaged, or the table contradicts itself.
    """
    tracks, faults = read_tracks(folder / table)
    if faults:
        raise DataError.of(*faults)
    (files,) = find_frames(folder).values()
    sequence = read_frames(name, files, spatial_dims=spatial_dims, spacing_mm=spacing_mm)
    return TrackedSequence(sequence, tuple(tracks[identity] for identity in sorted(tracks)))


def find_tracked(folder: Path) -> dict[str, Path]:
    """The tables of tracks in a folder, by sequence.

    Args:
        folder: Holds a table (man_track.txt, res_track.txt) beside its frames, or TRA with one, or several of both
            kinds (01_RES, 01_GT).

    Returns:
        The tables; none where there are none.

    Raises:
        UsageError: A sequence has several.
    """
    beside = [folder / inner for inner in (".", "TRA") if (folder / inner).is_dir()]
    within = [path / inner for path in sorted(folder.glob("*")) if path.is_dir() for inner in (".", "TRA")]
    found: dict[str, Path] = {}
    for place in beside if any((one / name).is_file() for one in beside for name in _TABLES) else within:
        for table in (place / name for name in _TABLES if (place / name).is_file()):
            name = _sequence_of(place)
            if name in found:
                raise UsageError(f"{folder} has sequence {name} in {found[name].parent} and {place}; name one of them")
            found[name] = table
    return found


def case_of(path: Path) -> str:
    """Id of the case whose saved prediction a file holds."""
    return unquote((stem(path.name) or path.name).removesuffix("_instances"))


def find_images(folder: Path, name: str) -> dict[int, Path]:
    """The files of the images of a sequence, by number of the frame.

    Args:
        folder: Holds files NAME_tNNN, or tNNN, by itself or in a folder NAME.
        name: Name of the sequence.

    Returns:
        The files; none where there are none.
    """
    place = folder / name if (folder / name).is_dir() else folder
    pattern = re.compile(rf"(?:{re.escape(name)}_)?t(?P<frame>\d+)")
    files = sorted(place.iterdir()) if place.is_dir() else []
    matches = [(pattern.fullmatch(stem(path.name) or ""), path) for path in files]
    return {int(match["frame"]): path for match, path in matches if match}


def read_pixels(path: Path, *, spatial_dims: int, channel: int = 0) -> Float[np.ndarray, "*spatial"]:
    """Read a channel of the image of a frame.

    Args:
        path: The file.
        spatial_dims: Axes of a frame, 2 or 3.
        channel: The channel.

    Returns:
        Its values.

    Raises:
        DataError: The file is damaged.
        UsageError: The image has no such channel.
    """
    pixels, _ = read_image(path, case_id=path.name, spatial_dims=spatial_dims)
    if not 0 <= channel < len(pixels):
        raise UsageError(f"channel needs a value from 0 to {len(pixels) - 1} for {path}, got {channel}")
    values: np.ndarray = pixels[channel]
    return values


def reference_folder(root: Path, name: str) -> Path:
    """The folder of a sequence's reference.

    Args:
        root: That folder itself (01_GT), or the one that holds it.
        name: Name of the sequence.

    Returns:
        The folder that has TRA in it.

    Raises:
        UsageError: There is none.
    """
    for folder in (root / f"{name}_GT", root):
        if (folder / "TRA").is_dir():
            return folder
    raise UsageError(f"the reference of sequence {name} needs {root / f'{name}_GT' / 'TRA'}, got no such folder")


def _sequence_of(folder: Path) -> str:
    """The part before _GT or _RES of the nearest folder that is called so; else the folder's own name."""
    matches = (_FOLDER.fullmatch(part) for part in reversed(folder.resolve().parts))
    return next((match["sequence"] for match in matches if match), folder.resolve().name)


def _by_sequence(chosen: list[tuple[str, int, Path]]) -> dict[str, dict[int, Path]]:
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for name, frame, path in sorted(chosen):
        if frame in found[name]:
            twice = f"{found[name][frame].name} and {path.name}"
            raise DataError(f"frame {frame} of sequence {name} needs one file, got {twice}; remove one")
        found[name][frame] = path
    for name, files in found.items():
        missing = sorted(set(range(min(files), max(files))) - set(files))
        if missing:
            raise DataError(
                f"sequence {name} needs each frame from {min(files)} to {max(files)}, got none of {missing[0]} "
                f"({len(missing)} missing); predict them too"
            )
    return dict(found)

"""Tracks drawn from the command line: the options, where the images of the frames are, and `medexp show` of tracks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medexp.core.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from medexp.core.tracks import TrackedSequence

# Options of `add_track_drawing`, and others of pictures of tracks alone.
TRACK_OPTIONS = ("images", "trail", "fps")
_TRAIL_FRAMES, _FRAMES_PER_SECOND = 10, 5.0


def add_track_drawing(add: Callable[..., Any]) -> None:
    """Add the options that say how tracks are drawn, beside `--no-ids`.

    Args:
        add: Adds an option to a parser, or to a group of it.
    """
    images = "of the frames: SEQUENCE/tNNN or SEQUENCE_tNNN (default: beside the tracks; of a run its dataset's)"
    add("--images", type=Path, metavar="FOLDER", help=images)
    add("--trail", type=int, default=_TRAIL_FRAMES, metavar="N", help="frames that a step of a track is seen for (10)")
    add("--fps", type=float, default=_FRAMES_PER_SECOND, metavar="N", help="frames a second (default: 5)")


def add_reference(add: Callable[..., Any]) -> None:
    """Add the option that names the reference.

    Args:
        add: Adds an option to a parser, or to a group of it.
    """
    add("--reference", type=Path, metavar="FOLDER", help="holds SEQUENCE_GT/TRA and SEG, or is SEQUENCE_GT")


def add_grid(add: Callable[..., Any]) -> None:
    """Add the options that say what the grid of a frame is.

    Args:
        add: Adds an option to a parser, or to a group of it.
    """
    add("--dims", type=int, choices=(2, 3), default=2, help="axes of a frame (default: 2)")
    add("--spacing-mm", type=float, nargs="+", metavar="MM", help="along each axis (default: what files say)")


def check_spacing(arguments: argparse.Namespace) -> None:
    """Refuse distances that no grid has.

    Args:
        arguments: The parsed options of `add_grid`.

    Raises:
        UsageError: There are more or fewer than axes, or one is not above 0.
    """
    spacing = arguments.spacing_mm
    if spacing is not None and len(spacing) != arguments.dims:
        raise UsageError(f"--spacing-mm needs {arguments.dims} values (--dims), got {spacing}")
    if spacing is not None and not min(spacing) > 0:
        raise UsageError(f"--spacing-mm needs values above 0, got {spacing}")


def refuse(arguments: argparse.Namespace, parser: argparse.ArgumentParser, names: Iterable[str], why: str) -> None:
    """Refuse options that would have no effect.

    Args:
        arguments: The parsed options.
        parser: Their parser.
        names: Those that have no effect.
        why: What they need.

    Raises:
        UsageError: One of them was given another value than its default.
    """
    for name in names:
        if getattr(arguments, name) != parser.get_default(name):
            raise UsageError(f"--{name.replace('_', '-')} {why}; leave it out")


def draw(
    tracked: TrackedSequence,
    images: Callable[[int], np.ndarray] | None,
    folder: Path,
    *,
    arguments: argparse.Namespace,
    reference: TrackedSequence | None = None,
    formats: tuple[str, ...] | None = None,
) -> list[Path]:
    """Draw a tracked sequence as the options say.

    Args:
        tracked: It.
        images: Gives the image of each frame; None where there are none.
        folder: Where to.
        arguments: The parsed options.
        reference: What is known of the sequence, or None.
        formats: Which files; None for one of each kind.

    Returns:
        The files.
    """
    from medexp.engine.track_pictures import FORMATS, TrackDrawing, draw_tracks

    if images is None:
        print(f"{tracked.sequence.name}: no images beside the tracks, so they are drawn on black", file=sys.stderr)
    drawing = TrackDrawing(
        formats=formats or FORMATS,
        trail_frames=arguments.trail,
        frames_per_second=arguments.fps,
        ids=not arguments.no_ids,
    )
    known = None if reference is None else reference.sequence.frames
    return draw_tracks(tracked, images, folder, reference=known, drawing=drawing)


def read_reference(tracked: TrackedSequence, root: Path) -> TrackedSequence:
    """The tracks that are known of a sequence.

    Args:
        tracked: The sequence.
        root: Holds SEQUENCE_GT/TRA, or is SEQUENCE_GT.

    Returns:
        The reference.
    """
    from medexp.data.sequences import read_tracked, reference_folder

    name, dims = tracked.sequence.name, tracked.sequence.geometry.spatial_dims
    return read_tracked(name, reference_folder(root, name) / "TRA", spatial_dims=dims)


def images_in(
    tracked: TrackedSequence, *, given: Path | None, beside: Path, channel: int = 0
) -> Callable[[int], np.ndarray] | None:
    """The images of a sequence that lie in files.

    Args:
        tracked: The sequence.
        given: The folder that the user names, or None.
        beside: The folder of the tracks or instances, in which and above which a folder named as the sequence may be.
        channel: The image channel that is shown.

    Returns:
        What gives the image of a frame by its number; None where no folder is named and none is found that has all.

    Raises:
        UsageError: The folder that is named lacks the image of a frame.
    """
    from medexp.data.sequences import find_images, read_pixels

    sequence = tracked.sequence
    if given is None:
        near = (find_images(above, sequence.name) for above in (beside, *beside.resolve().parents[:2]))
        files = next((found for found in near if set(sequence.frames) <= set(found)), None)
        if files is None:
            return None
    else:
        files = find_images(given, sequence.name)
        missing = sorted(set(sequence.frames) - set(files))
        if missing:
            raise UsageError(
                f"--images {given} needs an image t{missing[0]:03d} or {sequence.name}_t{missing[0]:03d}, got none "
                f"({len(missing)} of {len(sequence.frames)} frames missing); name the folder that holds them"
            )
    dims = sequence.geometry.spatial_dims
    return lambda frame: read_pixels(files[frame], spatial_dims=dims, channel=channel)


def images_of_run(
    tracked: TrackedSequence, run: Path, *, keep_grid: bool
) -> tuple[TrackedSequence, Callable[[int], np.ndarray]]:
    """The images that a run has found the objects of a sequence in.

    Args:
        tracked: The sequence, linked from the run's predictions.
        run: Folder of the run.
        keep_grid: Whether the sequence keeps its grid, as the user has given it.

    Returns:
        The sequence on the grid of its images, and what gives the image of a frame by its number.
    """
    from medexp.data.sequences import case_of, find_frames
    from medexp.engine.dataset_cases import DatasetCases
    from medexp.engine.run import load_run

    cases = DatasetCases(load_run(run).config)
    files = find_frames(run)[tracked.sequence.name]
    ids = {frame: case_of(path) for frame, path in files.items()}
    first = cases.image(ids[min(ids)])
    if not keep_grid:
        tracked = replace(tracked, sequence=replace(tracked.sequence, geometry=first.geometry))
    return tracked, lambda frame: cases.image(ids[frame]).pixels[0]


def show_tracks(arguments: argparse.Namespace, tables: dict[str, Path]) -> int:
    """Draw sequences of tracks that lie in a folder.

    Args:
        arguments: The parsed options of `medexp show`.
        tables: The tables of the tracks, by sequence.

    Returns:
        0.

    Raises:
        UsageError: Several pictures should become one file, or one of another format.
    """
    from medexp.data.sequences import read_tracked
    from medexp.engine.track_pictures import FORMATS

    if arguments.format == "svg":
        raise UsageError(f"--format svg is for cases of runs; choose {', '.join(FORMATS)} for tracks")
    out: Path | None = arguments.output
    form = arguments.format or (out.suffix[1:] if out is not None and out.suffix[1:] in FORMATS else None)
    named = out is not None and form is not None and out.suffix == f".{form}"
    if out is not None and not named and out.suffix[1:] in FORMATS:
        raise UsageError(f"-o {out} does not end in .{form}; leave --format out, or name a folder")
    if named and len(tables) > 1:
        raise UsageError(f"-o {out} is one file, and {len(tables)} sequences are drawn; name a folder")
    folder = arguments.run / "shown" if out is None else out.parent if named else out
    spacing = None if arguments.spacing_mm is None else tuple(arguments.spacing_mm)
    for name, table in tables.items():
        tracked = read_tracked(name, table.parent, spatial_dims=arguments.dims, table=table.name, spacing_mm=spacing)
        images = images_in(tracked, given=arguments.images, beside=table.parent, channel=arguments.channel)
        known = None if arguments.reference is None else read_reference(tracked, arguments.reference)
        formats = None if form is None else (form,)
        paths = draw(tracked, images, folder, arguments=arguments, reference=known, formats=formats)
        for path in paths:
            print(path.replace(out) if named and out is not None else path)
    return 0

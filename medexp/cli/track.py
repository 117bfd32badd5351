"""`medexp track FOLDER`: instances of frames linked to tracks, or of slices joined to volumes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medexp.cli.track_drawing import (
    TRACK_OPTIONS,
    add_grid,
    add_reference,
    add_track_drawing,
    check_spacing,
    draw,
    images_in,
    images_of_run,
    read_reference,
    refuse,
)
from medexp.core.errors import UsageError

if TYPE_CHECKING:
    from medexp.association.frames import FrameLinker
    from medexp.core import tracks

_EPILOG = """examples:
  medexp track runs/cells/default -o tracked --max-distance-mm 20 --max-division-distance-mm 25
  medexp track RUN -o tracked --cost overlap --reference data/Fluo-N2DH-SIM+   with SEG, DET and TRA
  medexp track cells/01_GT/SEG -o tracked --pictures --images cells            with a GIF and a page of the tracks
  medexp track RUN -o tracked --frames 43 64 --reference data/Fluo-N2DH-SIM+   the frames that were held out
  medexp track slices -o joined --over slices --min-iou 0.4                    slices NAME_zNNN to volumes

FOLDER is a run recorded with save_predictions=true, or holds files SEQUENCE_tNNN_instances.nii.gz, .png or .tif, or
man_segNNN.tif. Lengths are pixels where files have no physical scale; --spacing-mm gives one.

Frames: OUT/SEQUENCE_RES has the tracks in the layout of the Cell Tracking Challenge, OUT/tracks.csv what is measured of
each, OUT/places.csv its centre and size in each frame, and OUT/scores.csv the scores where there is a reference.
Exit codes: 0 good, 1 a file cannot be read, 2 wrong use."""


def track_command(words: Sequence[str]) -> int:
    """Link or join what a folder holds.

    Args:
        words: Words after `medexp track`.

    Returns:
        0.

    Raises:
        UsageError: A folder or a knob is not usable, or laptrack is not installed.
        DataError: A file is damaged, or frames are missing.
    """
    parser = _parser()
    arguments = parser.parse_args(list(words))
    check_spacing(arguments)
    if not arguments.pictures:
        refuse(arguments, parser, (*TRACK_OPTIONS, "no_ids"), "needs --pictures")
    if arguments.over == "slices":
        return _join(arguments)
    return _link(arguments)


def _link(arguments: argparse.Namespace) -> int:
    import pandas as pd

    from medexp.association.ctc import write_result
    from medexp.association.measurements import measured_tracks, places_of
    from medexp.core.files import write_text

    linker = _linker(arguments)
    places, measured, scores, drawn = [], [], [], []
    for sequence in _chosen_frames(_sequences(arguments), arguments):
        tracked = linker(sequence)
        write_result(tracked, arguments.output / f"{sequence.name}_RES")
        places.append(places_of(tracked))
        measured.append(measured_tracks(tracked, places[-1]))
        print(f"{sequence.name}: {len(tracked.tracks)} tracks in {len(sequence.frames)} frames")
        known = _known(tracked, arguments)
        if arguments.pictures:
            drawn += _draw(tracked, known, arguments)
        if known is not None:
            scores.append({"sequence": sequence.name, **_scores(tracked, known, arguments)})
            print("  ".join(f"{name} {value:.4f}" for name, value in scores[-1].items() if name != "sequence"))
    write_text(arguments.output / "places.csv", pd.concat(places).to_csv(index=False))
    write_text(arguments.output / "tracks.csv", pd.concat(measured).to_csv(index=False))
    if scores:
        write_text(arguments.output / "scores.csv", pd.DataFrame(scores).to_csv(index=False))
    for path in (*drawn, arguments.output / "tracks.csv"):
        print(path)
    return 0


def _linker(arguments: argparse.Namespace) -> FrameLinker:
    from medexp.association.frames import FrameLinker

    return FrameLinker(
        cost=arguments.cost,
        max_distance_mm=arguments.max_distance_mm,
        min_overlap=arguments.min_overlap,
        gap_frames=arguments.gap,
        allow_division=not arguments.no_division,
        max_division_distance_mm=arguments.max_division_distance_mm,
    )


def _known(tracked: tracks.TrackedSequence, arguments: argparse.Namespace) -> tracks.TrackedSequence | None:
    """What is known of the frames that are judged, if there is a reference."""
    if arguments.reference is None:
        return None
    known = read_reference(tracked, arguments.reference)
    return known if arguments.frames is None else known.between(*arguments.frames)


def _draw(
    tracked: tracks.TrackedSequence, known: tracks.TrackedSequence | None, arguments: argparse.Namespace
) -> list[Path]:
    from medexp.core.record import RunFolder

    folder: Path = arguments.folder
    if arguments.images is None and RunFolder(folder).exists:
        tracked, of_run = images_of_run(tracked, folder, keep_grid=arguments.spacing_mm is not None)
        return draw(tracked, of_run, arguments.output, arguments=arguments, reference=known)
    images = images_in(tracked, given=arguments.images, beside=folder)
    return draw(tracked, images, arguments.output, arguments=arguments, reference=known)


def _scores(
    tracked: tracks.TrackedSequence, reference: tracks.TrackedSequence, arguments: argparse.Namespace
) -> dict[str, float]:
    from medexp.association.scores import tracking_scores
    from medexp.data.sequences import find_frames, read_frames, reference_folder

    name, dims = tracked.sequence.name, tracked.sequence.geometry.spatial_dims
    folder, chosen = reference_folder(arguments.reference, name), arguments.frames is not None
    if not (folder / "SEG").is_dir():
        return tracking_scores(tracked, reference)
    (files,) = find_frames(folder / "SEG").values()
    outlined = read_frames(name, files, spatial_dims=dims).frames
    judged = reference.sequence.frames
    segmentation = {number: image for number, image in outlined.items() if not chosen or number in judged}
    return tracking_scores(tracked, reference, segmentation)


def _chosen_frames(sequences: list[tracks.Sequence], arguments: argparse.Namespace) -> list[tracks.Sequence]:
    if arguments.frames is None:
        return sequences
    first, last = arguments.frames
    chosen = [sequence.between(first, last) for sequence in sequences]
    for sequence, part in zip(sequences, chosen, strict=True):
        if not part.frames:
            there = f"{min(sequence.frames)} to {max(sequence.frames)}"
            raise UsageError(f"--frames {first} {last} leaves no frame of sequence {sequence.name}, which has {there}")
    return chosen


def _join(arguments: argparse.Namespace) -> int:
    import nibabel as nib
    import numpy as np

    from medexp.association.slices import SliceJoiner

    if arguments.dims != 2 or arguments.reference is not None or arguments.pictures:
        raise UsageError(
            "--over slices joins images of 2 axes, compares with no reference and draws nothing; leave --dims, "
            "--reference and --pictures out"
        )
    if not arguments.slice_distance_mm > 0:
        raise UsageError(f"--slice-distance-mm needs a value above 0, got {arguments.slice_distance_mm}")
    joiner = SliceJoiner(min_iou=arguments.min_iou, gap_slices=arguments.gap)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for sequence in _sequences(arguments):
        volume = np.moveaxis(joiner(np.stack(list(sequence.frames.values()))), 0, -1)
        path = arguments.output / f"{sequence.name}_instances.nii.gz"
        affine = np.diag([*sequence.geometry.spacing_mm, arguments.slice_distance_mm, 1.0])
        nib.save(nib.Nifti1Image(np.ascontiguousarray(volume), affine), path)
        print(f"{path}: {volume.max(initial=0)} objects in {len(sequence.frames)} slices")
    return 0


def _sequences(arguments: argparse.Namespace) -> list[tracks.Sequence]:
    from medexp.data.sequences import find_frames, read_frames

    spacing = None if arguments.spacing_mm is None else tuple(arguments.spacing_mm)
    found = find_frames(arguments.folder)
    return [read_frames(name, files, spatial_dims=arguments.dims, spacing_mm=spacing) for name, files in found.items()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medexp track",
        description="Link instances over the frames of sequences, or join them over the slices of volumes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="a run, or a folder of instance images")
    add("-o", "--output", type=Path, required=True, metavar="OUT", help="folder for what is written")
    add("--over", choices=("frames", "slices"), default="frames", help="what follows each other (default: frames)")
    add_reference(add)
    add_grid(add)
    add("--gap", type=int, default=0, metavar="N", help="frames or slices an object may be missing from (default: 0)")
    frames = parser.add_argument_group("over frames").add_argument
    frames("--frames", type=int, nargs=2, metavar=("FIRST", "LAST"), help="only these are linked, drawn and judged")
    frames("--cost", choices=("distance", "overlap"), default="distance", help="of a link (default: distance)")
    frames("--max-distance-mm", type=float, default=15.0, metavar="MM", help="between centres (default: 15)")
    frames("--min-overlap", type=float, default=0.1, metavar="PART", help="with --cost overlap (default: 0.1)")
    frames("--no-division", action="store_true", help="no object becomes two")
    frames("--max-division-distance-mm", type=float, metavar="MM", help="mother to daughter (default: as others)")
    pictures = parser.add_argument_group("pictures of tracks").add_argument
    pictures(
        "--pictures", action="store_true", help="draw each sequence as GIF, page and PNG; medexp show does it later"
    )
    add_track_drawing(pictures)
    pictures("--no-ids", action="store_true", help="without the ids of tracks")
    slices = parser.add_argument_group("over slices").add_argument
    slices("--min-iou", type=float, default=0.3, metavar="IOU", help="of two outlines of an object (default: 0.3)")
    slices("--slice-distance-mm", type=float, default=1.0, metavar="MM", help="between slices (default: 1)")
    return parser

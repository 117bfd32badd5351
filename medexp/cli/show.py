"""`medexp show`: cases of a run, drawn with reference and prediction, or tracks through the frames of a sequence."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medexp.cli.track_drawing import (
    TRACK_OPTIONS,
    add_grid,
    add_reference,
    add_track_drawing,
    check_spacing,
    refuse,
    show_tracks,
)
from medexp.core.errors import UsageError

if TYPE_CHECKING:
    from medexp.core.types import Image, Prediction

_OF_TRACKS = (*TRACK_OPTIONS, "reference", "dims", "spacing_mm")
_OF_CASES = ("case", "layout", "style", "axis", "index", "slices", "without_errors")
_EPILOG = """examples:
  medexp show runs/quickstart/default                        the worst case by the first metric
  medexp show RUN --case phantom_003 --case phantom_007      these
  medexp show RUN --layout montage --format svg -o figures   for a paper
  medexp show RUN --format html                              a page to scroll through, which needs nothing else
  medexp show tracked/01_RES --images data/cells             tracks as an animated GIF, a page that plays it, and a PNG
  medexp show data/Fluo-N2DH-SIM+/01_GT --format gif --trail 20
  medexp show tracked --reference data/Fluo-N2DH-SIM+        what was missed and what is false, too

A folder with tracks holds man_track.txt or res_track.txt, or folders with one (01_RES, 01_GT/TRA).
Predictions are those that the run saved (save_predictions=true), else they are computed anew from its checkpoint.
Files are named by case; what is drawn does not name it. Exit codes: 0 good, 1 no prediction to be had, 2 wrong use."""


def show_command(words: Sequence[str]) -> int:
    """Draw cases of a run, or sequences of tracks.

    Args:
        words: Words after `medexp show`.

    Returns:
        0.

    Raises:
        UsageError: There is no such run or case, or two options do not go together.
        RecordError: The run holds neither the prediction nor a checkpoint.
    """
    parser = _parser()
    arguments = parser.parse_args(list(words))
    tables = _tables(arguments.run)
    if tables:
        refuse(arguments, parser, _OF_CASES, f"is for runs, and {arguments.run} holds tracks")
        check_spacing(arguments)
        return show_tracks(arguments, tables)
    refuse(arguments, parser, _OF_TRACKS, f"is for tracks, and {arguments.run} holds none")
    arguments.format = arguments.format or "png"
    return _show_cases(arguments)


def _tables(folder: Path) -> dict[str, Path]:
    """The tables of tracks in a folder; none in that of a run."""
    from medexp.core.record import RunFolder
    from medexp.data.sequences import find_tracked

    return {} if RunFolder(folder).exists else find_tracked(folder)


def _show_cases(arguments: argparse.Namespace) -> int:
    if arguments.format == "gif":
        raise UsageError(f"--format gif is for tracks, and {arguments.run} holds none; choose png, svg or html")
    from medexp.engine.run import load_run
    from medexp.engine.run_cases import RunCases

    cases = RunCases(load_run(arguments.run))
    ids = list(dict.fromkeys(arguments.case)) or [cases.worst()]
    folder, file = places(arguments, len(ids), default=cases.run.path / "shown")
    for case_id in ids:
        judged = cases.read(case_id)
        if judged.recomputed:
            print(f"{case_id}: predicted anew from the run's checkpoint", file=sys.stderr)
        case = (judged.image, judged.prediction, judged.reference)
        for path in draw_case(*case, folder, arguments=arguments, errors=not arguments.without_errors):
            print(path if file is None else path.replace(file))
    return 0


def draw_case(
    image: Image,
    prediction: Prediction | None,
    reference: Prediction | None,
    folder: Path,
    *,
    arguments: argparse.Namespace,
    errors: bool = False,
) -> list[Path]:
    """Draw a case as the options of `add_drawing` say.

    Args:
        image: The case.
        prediction: Its prediction, or None.
        reference: Its reference, or None.
        folder: Where to.
        arguments: The parsed options.
        errors: A panel more that shows where the two differ.

    Returns:
        The files.
    """
    from medexp.engine.overlays import Cuts, Drawing, draw_overlay, safe_name
    from medexp.engine.viewer import write_viewer

    if arguments.format == "html":
        path = folder / f"{safe_name(image.case.case_id)}.html"
        return [write_viewer(image, prediction, reference, path, channel=arguments.channel)]
    drawing = Drawing(
        styles=(arguments.style,),
        formats=(arguments.format,),
        errors=errors,
        channel=arguments.channel,
        cuts=Cuts(arguments.layout, slices=arguments.slices, axis=arguments.axis, index=arguments.index),
        ids=not arguments.no_ids,
    )
    return draw_overlay(image, prediction, reference, folder, drawing=drawing)


def places(arguments: argparse.Namespace, count: int, *, default: Path) -> tuple[Path, Path | None]:
    """The folder to draw in, and the file that the picture becomes where one is named.

    Args:
        arguments: The parsed options.
        count: How many pictures are drawn.
        default: The folder unless one is named.

    Returns:
        Folder and file.

    Raises:
        UsageError: The file has another format, or there are several pictures.
    """
    out: Path | None = arguments.output
    if out is None:
        return default, None
    if out.suffix != f".{arguments.format}":
        if out.suffix in (".png", ".svg", ".html"):
            raise UsageError(f"-o {out} does not end in .{arguments.format}; add --format {out.suffix[1:]}")
        return out, None
    if count > 1:
        raise UsageError(f"-o {out} is one file, and {count} pictures are drawn; name a folder")
    return out.parent, out


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medexp show",
        description="Draw cases of a run: reference, prediction, and where they differ; or tracks through a sequence.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=Path, help="folder of a run (the one with run.json), or of tracks")
    add("--case", action="append", default=[], metavar="ID", help="a case of the dataset; may be given several times")
    add_drawing(parser, formats=("png", "svg", "html", "gif"))
    add("--without-errors", action="store_true", help="no panel of false positives and false negatives")
    add("-o", "--output", type=Path, metavar="OUT", help="folder, or a file for one case (default: RUN/shown)")
    of_tracks = parser.add_argument_group("of tracks").add_argument
    add_track_drawing(of_tracks)
    add_reference(of_tracks)
    add_grid(of_tracks)
    # What is usual differs between runs and tracks.
    parser.set_defaults(format=None)
    return parser


def add_drawing(parser: argparse.ArgumentParser, *, formats: Sequence[str] = ("png", "svg", "html")) -> None:
    """Add the options that say how cases are drawn.

    Args:
        parser: Gets them.
        formats: Those that may be asked for.
    """
    add = parser.add_argument
    layout = "of volumes: a plane along each axis, several slices along one axis, or one"
    add("--layout", choices=("planes", "montage", "slice"), default="planes", help=layout)
    add("--format", choices=formats, default="png", help="html is a page to scroll through")
    add("--style", choices=("contour", "fill"), default="contour", help="lines along the borders, or areas")
    add("--axis", type=int, choices=(0, 1, 2), help="the axis that a montage or a slice cuts (default: widest voxels)")
    add("--index", type=int, metavar="N", help="where a slice is cut (default: where most foreground is)")
    add("--slices", type=int, default=12, metavar="N", help="how many a montage has at most (default: 12)")
    add("--no-ids", action="store_true", help="instances without their ids")
    add("--channel", type=int, default=0, metavar="N", help="the image channel that is shown (default: 0)")

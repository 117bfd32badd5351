"""`medexp data fingerprint`: what the images and annotations of a dataset look like."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from medexp.cli.composition import Composer
from medexp.cli.console import console, told_on_stderr
from medexp.core.errors import UsageError

if TYPE_CHECKING:
    from medexp.data.fingerprint import Fingerprint

_EPILOG = """EXPERIMENT and OVERRIDES are those of `medexp train`, e.g.
  medexp data fingerprint dataset=msd dataset.root=FOLDER --html fingerprint.html

Exit codes: 0 good, 1 a case cannot be read (`medexp data check` says what is wrong with all of them), 2 wrong use."""


def data_fingerprint(words: Sequence[str]) -> int:
    """Measure the dataset that the words describe.

    Args:
        words: Words after `medexp data fingerprint`.

    Returns:
        0.

    Raises:
        UsageError: The words describe no dataset.
        DataError: Tells what is wrong with each case that cannot be read.
    """
    arguments = _parser().parse_intermixed_args(list(words))
    config = composed(arguments.words, arguments.config_dir)
    from medexp.core.files import write_json
    from medexp.data.fingerprint.configured import fingerprint_of

    with told_on_stderr():
        fingerprint = fingerprint_of(config)
    _print(fingerprint, console())
    if arguments.json is not None:
        write_json(arguments.json, fingerprint.as_plain())
    if arguments.html is not None:
        from medexp.data.fingerprint.page import write_page

        write_page(fingerprint, arguments.html)
    return 0


def composed(words: Sequence[str], config_dir: Path | None) -> DictConfig:
    """The configuration of one job.

    Args:
        words: An experiment, if there is one, and overrides.
        config_dir: Folder with the user's own options.

    Returns:
        A finished configuration.

    Raises:
        UsageError: The words describe no job, or several.
    """
    named = [word for word in words if "=" not in word and not word.startswith("~")]
    if len(named) > 1:
        raise UsageError(f"one experiment at a time, got {', '.join(named)}; overrides read KEY=VALUE")
    overrides = [word for word in words if word not in named]
    composer = Composer(named[0] if named else None, overrides, config_dir=config_dir)
    if composer.sweep.swept:
        raise UsageError(
            f"{', '.join(composer.sweep.swept)} takes several values, and one configuration is asked for; give one"
        )
    return composer.compose_jobs()[0]


def _print(fingerprint: Fingerprint, console: Console) -> None:
    from medexp.data.fingerprint.page import figures

    plain = fingerprint.as_plain()
    console.print(f"{plain['dataset']}: {plain['cases']} cases in {plain['spatial_dims']}D")
    images = _table("", "smallest", "10 %", "median", "90 %", "largest")
    for title, row in (
        (f"shape ({'pixels' if plain['spatial_dims'] == 2 else 'voxels'})", plain["shape"]),
        (f"spacing ({plain['unit']})", plain["spacing_mm"]),
    ):
        images.add_row(title, *(figures(row[name]) for name in ("min", "p10", "median", "p90", "max")))
    console.print(images)
    if plain["intensities"]:
        console.print(f"\nintensities in the foreground ({', '.join(plain['foreground'])})")
        intensities = _table("channel", "mean", "SD", "smallest", "0.5 %", "median", "99.5 %", "largest")
        for name, row in plain["intensities"].items():
            intensities.add_row(name, *(figures(value) for value in row.values()))
        console.print(intensities)
    if plain["classes"]:
        console.print(f"\nclasses (median; lengths in {plain['unit']}; region: what 90 % of the voxels lie in)")
        classes = _table("class", "cases", "missing in", "volume", "objects", "in a case", "object", "region")
        for name, row in plain["classes"].items():
            classes.add_row(name, *_of_class(row))
        console.print(classes)
        console.print(f"{len(plain['without_objects'])} cases show no object")
    if plain["image_labels"]:
        console.print(
            "\nimages of each label: " + ", ".join(f"{name} {n}" for name, n in plain["image_labels"].items())
        )


def _of_class(row: dict[str, Any]) -> list[str]:
    from medexp.data.fingerprint.page import figures

    medians = [row[name].get("median") for name in ("volume_mm3", "objects_per_case", "object_extent_mm")]
    volume, count, extent = ("" if value is None else figures(value) for value in medians)
    region = figures(row["region_mm"]["p90"]) if row["objects"] else ""
    return [str(row["cases"]), str(len(row["missing_in"])), volume, str(row["objects"]), count, extent, region]


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medexp data fingerprint",
        description="Shapes, spacings, intensities in the foreground, and the sizes of classes and objects. Each case "
        "is read once; what was measured is remembered by its content.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="[EXPERIMENT] [OVERRIDES]", help="as of `medexp train`")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures, and a line a case, as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots")
    parser.add_argument("-cd", "--config-dir", type=Path, metavar="DIR", help="your own options, laid out like conf/")
    return parser

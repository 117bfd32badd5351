"""`medexp describe RUN`: a row for each object that a run found, or that is known."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medexp.core.errors import UsageError

_FORMATS = (".csv", ".json")
_EPILOG = """examples:
  medexp describe runs/quickstart/default                     all judged cases, into RUN/described.csv
  medexp describe RUN --case case_003 -o lesions.json
  medexp describe RUN --reference -o known.csv                what is annotated instead of what is predicted

Objects are instances, boxes or points; of a mask they are the connected parts of each class. The columns are explained
in docs/instances.md. Exit codes: 0 good, 1 no prediction to be had, 2 wrong use."""


def describe_command(words: Sequence[str]) -> int:
    """Write a row for each object.

    Args:
        words: Words after `medexp describe`.

    Returns:
        0.

    Raises:
        UsageError: There is no such run or case, or the file has another format.
        RecordError: The run holds neither a prediction nor a checkpoint.
    """
    arguments = _parser().parse_args(list(words))
    path: Path = arguments.output or arguments.run / "described.csv"
    if path.suffix not in _FORMATS:
        raise UsageError(f"-o {path} needs to end in {' or '.join(_FORMATS)}")
    import pandas as pd

    from medexp.core.files import write_json
    from medexp.description.describe import describe
    from medexp.engine.run import load_run
    from medexp.engine.run_cases import RunCases

    cases = RunCases(load_run(arguments.run))
    channels = cases.parts.data.source.channels
    rows = []
    for case_id in arguments.case or [str(case_id) for case_id in cases.run.cases["case_id"]]:
        judged = cases.read(case_id)
        shown = judged.reference if arguments.reference else judged.prediction
        if shown is None:
            raise UsageError(f"case {case_id} has no reference; leave out --reference")
        with_pixels = replace(shown, pixels=judged.image.pixels)
        rows += describe(with_pixels, channels=channels, slice_axis=arguments.slice_axis)
    if path.suffix == ".json":
        write_json(path, rows)
    else:
        pd.DataFrame(rows).to_csv(path, index=False)
    print(f"{len(rows)} objects: {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medexp describe",
        description="Class, score, centre, size, diameters, surface and intensities of each object of a run's cases.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", type=Path, help="folder of a run (the one with run.json)")
    add("--case", action="append", default=[], metavar="ID", help="a case of the dataset; may be given several times")
    add("--reference", action="store_true", help="what is known instead of what is predicted")
    add("--slice-axis", type=int, choices=(0, 1, 2), help="axis that slices follow (default: of the widest voxels)")
    add("-o", "--output", type=Path, metavar="FILE", help="CSV or JSON file (default: RUN/described.csv)")
    return parser

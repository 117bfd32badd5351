"""`medexp data show`: cases of a dataset, and the patches that training cuts from them, drawn with their annotation."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medexp.cli.data_fingerprint import composed
from medexp.cli.show import add_drawing, draw_case, places
from medexp.core.errors import UsageError

if TYPE_CHECKING:
    from medexp.core.types import Image, Prediction
    from medexp.engine.dataset_cases import DatasetCases

_EPILOG = """EXPERIMENT and OVERRIDES are those of `medexp train`, e.g.
  medexp data show dataset=phantom_3d                         its first case
  medexp data show my_experiment.yaml --case liver_012 --format html
  medexp data show quickstart augmentation=full --case case_0001 --augmented 4
With --augmented the parameters of each patch are printed as a line of JSON; no side of the patient is named there, as
patches are turned and flipped. Files are named by case; what is drawn does not name it.

Exit codes: 0 good, 1 a case cannot be read, 2 wrong use."""


def data_show(words: Sequence[str]) -> int:
    """Draw cases of the dataset that the words describe.

    Args:
        words: Words after `medexp data show`.

    Returns:
        0.

    Raises:
        UsageError: There is no such dataset or case, or two options do not go together.
        DataError: A case cannot be read, or nobody annotated it.
    """
    arguments = _parser().parse_intermixed_args(list(words))
    if arguments.augmented < 0:
        raise UsageError(f"--augmented needs a whole number from 0 on, got {arguments.augmented}")
    config = composed(arguments.words, arguments.config_dir)
    from medexp.engine.dataset_cases import DatasetCases

    cases = DatasetCases(config)
    ids = list(dict.fromkeys(arguments.case)) or cases.case_ids[:1]
    folder, file = places(arguments, len(ids) * max(1, arguments.augmented), default=Path("shown"))
    for image, known, parameters in _drawn(cases, ids, arguments.augmented):
        if parameters is not None:
            print(json.dumps(parameters))
        for path in draw_case(image, None, known, folder, arguments=arguments):
            print(path if file is None else path.replace(file))
    return 0


def _drawn(
    cases: DatasetCases, ids: Sequence[str], augmented: int
) -> Iterator[tuple[Image, Prediction, dict[str, Any] | None]]:
    for case_id in ids:
        if augmented:
            yield from cases.patches(case_id, augmented)
        else:
            yield (*cases.read(case_id), None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medexp data show",
        description="Draw cases of a dataset with their annotation, or the patches that training cuts from them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="[EXPERIMENT] [OVERRIDES]", help="as of `medexp train`")
    add(
        "--case",
        action="append",
        default=[],
        metavar="ID",
        help="a case (default: the first); may be given several times",
    )
    add("--augmented", type=int, default=0, metavar="N", help="the first N training patches of each case instead")
    add_drawing(parser)
    add("-o", "--output", type=Path, metavar="OUT", help="folder, or a file for one picture (default: shown)")
    add("-cd", "--config-dir", type=Path, metavar="DIR", help="your own options, laid out like conf/")
    return parser

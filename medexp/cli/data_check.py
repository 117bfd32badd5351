"""`medexp data check`: everything that is wrong with a dataset, in one pass."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from medexp.cli.composition import Composer
from medexp.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from medexp.core.types import Source
    from medexp.data.integrity import Report, Training
    from medexp.data.integrity.reading import Progress

_PIPE_WIDTH = 10_000
_EPILOG = """EXPERIMENT and OVERRIDES are those of `medexp train`, e.g.
  medexp data check dataset=msd dataset.root=FOLDER
  medexp data check my_experiment.yaml dataset.integrity=quarantine --html report.html

Exit codes: 0 no error, 1 errors, 2 wrong use."""


def data_check(words: Sequence[str]) -> int:
    """Check the dataset that the words describe.

    Args:
        words: Words after `medexp data check`.

    Returns:
        0 if there is no error in it, else 1.

    Raises:
        UsageError: The words describe no dataset.
    """
    arguments = _parser().parse_intermixed_args(list(words))
    if arguments.checks:
        Console(width=_width()).print(_list_of_checks())
        return 0
    config = _composed(arguments)
    # A network that nobody chose is no reason to find fault with a dataset.
    chosen = any("=" not in word or word.lstrip("+").startswith("model") for word in arguments.words)
    source, report = check_configured(config, with_model=chosen, processes=arguments.processes)
    from medexp.core.files import write_json
    from medexp.data.integrity.table import print_report

    print_report(report, Console(width=_width()), every=arguments.all)
    if arguments.json is not None:
        write_json(arguments.json, report.as_plain())
    if arguments.html is not None:
        from medexp.data.integrity.page import write_page

        write_page(report, source, arguments.html)
    return 1 if report.errors else 0


def check_configured(
    config: DictConfig, *, with_model: bool = True, processes: int | None = None
) -> tuple[Source | None, Report]:
    """Check the dataset of a composed configuration.

    Args:
        config: As `medexp.compose` returns it.
        with_model: Whether the patch has to fit the network too.
        processes: How many read cases together; None: as many as there are cores, once it pays.

    Returns:
        The source, or None where it cannot be built, and the report.

    Raises:
        UsageError: A knob of the dataset has an unfit value.
    """
    from medexp.core.config import plain
    from medexp.core.instantiate import instantiate, trust_folders
    from medexp.data.configured import identity_of, source_of
    from medexp.data.integrity import Policy, Store, check_dataset, unlistable

    trust_folders(config.paths.modules)
    knobs = plain(config.dataset)
    policy = Policy.of(knobs.get("integrity", "error"), knobs.get("checks"))
    try:
        (source, _), identity = source_of(config), identity_of(config)
    except DataError as error:
        return None, unlistable(str(config.options.get("dataset", "dataset")), error, policy=policy)
    with _progress() as progress:
        report = check_dataset(
            source,
            split=instantiate(config.dataset.split, "dataset.split"),
            fold=config.fold,
            policy=policy,
            training=_training(config, source.spatial_dims, with_model=with_model),
            store=Store(folder=Path(config.paths.cache) / "prepared", source=source, identity=identity),
            processes=processes,
            progress=progress,
        )
    return source, report


def _training(config: DictConfig, spatial_dims: int, *, with_model: bool) -> Training:
    """What training asks of the images; what is planned at its start is not known yet."""
    from medexp.core.config import plain
    from medexp.data.integrity import Training, model_strides

    preprocessing = plain(config.dataset).get("preprocessing", {})
    return Training(
        patch_size=_numbers(config.dataset.patch_size),
        strides=model_strides(plain(config.model), spatial_dims) if with_model else None,
        spacing_mm=_numbers(preprocessing.get("spacing_mm")),
        orient=preprocessing.get("orient", False),
        ignored_label=config.task.get("ignore_index"),
    )


def _numbers(value: Any) -> tuple[Any, ...] | None:
    return None if value is None or value == "auto" else tuple(value)


def _composed(arguments: argparse.Namespace) -> DictConfig:
    named = [word for word in arguments.words if "=" not in word and not word.startswith("~")]
    if len(named) > 1:
        raise UsageError(f"one experiment at a time, got {', '.join(named)}; overrides read KEY=VALUE")
    overrides = [word for word in arguments.words if word not in named]
    composer = Composer(named[0] if named else None, overrides, config_dir=arguments.config_dir)
    if composer.sweep.swept:
        raise UsageError(
            f"{', '.join(composer.sweep.swept)} takes several values, and one dataset is checked; give one"
        )
    return composer.compose_jobs()[0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medexp data check",
        description="Check every case of a dataset, and the cases against each other, as training does before its "
        "first step; everything that is wrong is told in one pass. What was read is remembered by its content.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="[EXPERIMENT] [OVERRIDES]", help="as of `medexp train`")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all faults as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with pictures of faulty and good cases")
    parser.add_argument("--all", action="store_true", help="print every warning, not the first of each kind only")
    parser.add_argument("--checks", action="store_true", help="list the checks and how grave each is, and stop")
    parser.add_argument("--processes", type=int, metavar="N", help="processes that read (default: as many as pays)")
    parser.add_argument("-cd", "--config-dir", type=Path, metavar="DIR", help="your own options, laid out like conf/")
    return parser


def _list_of_checks() -> Table:
    from medexp.data.integrity import CHECKS

    table = Table(box=None, pad_edge=False)
    for title in ("check", "level", "finds that"):
        table.add_column(title, overflow="fold")
    for name, check in CHECKS.items():
        table.add_row(name, f"{check.level}{' (fixed)' if check.fixed else ''}", check.about)
    return table


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """Shows how many cases are read, where somebody looks at a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading cases", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _width() -> int | None:
    """A line for each fault where the output is read by a program."""
    return None if sys.stdout.isatty() else _PIPE_WIDTH

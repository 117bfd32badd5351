"""`medexp data fetch NAME`: download a named dataset, or say where it is to be had."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from medexp.cli.data_list import size_text
from medexp.core.errors import UsageError
from medexp.data.catalogue.catalogue import Card, card, data_home

if TYPE_CHECKING:
    from medexp.data._download import Progress

_STEP = 0.1
_EPILOG = """The files go to MEDEXP_DATA or, unless that is set, to the user's data folder, where dataset=NAME
finds them. The same command goes on where an earlier one stopped, and does nothing where the dataset is there.

Exit codes: 0 it is there, 1 it could not be fetched, 2 wrong use, no consent, or a dataset to be had by hand."""


def data_fetch(words: Sequence[str]) -> int:
    """Bring a named dataset to its place.

    Args:
        words: Words after `medexp data fetch`.

    Returns:
        0.

    Raises:
        UsageError: There is no such dataset, it is to be had by hand, or its terms were not accepted.
        DataError: The files cannot be had or are not what they should be.
    """
    arguments = _parser().parse_args(list(words))
    wanted = card(arguments.name)
    home = data_home() if arguments.to is None else arguments.to.expanduser()
    place = wanted.place(home)
    if place is None:
        how = (
            f"comes with the package {wanted.package}" if wanted.package else "is drawn on this machine when it is used"
        )
        print(f"{wanted.name} {how}; there is nothing to fetch")
        return 0
    if wanted.missing(home):
        if wanted.manual is not None:
            raise UsageError(by_hand(wanted, home))
        print(_terms(wanted), file=sys.stderr)
        _ask_for_consent(wanted, consents=arguments.yes)
    if wanted.files:
        from medexp.data.fetch import fetch

        with _progress() as progress:
            fetch(wanted, home, progress=progress)
    root = "" if home == data_home() else f" dataset.root={place}"
    print(f"{wanted.name} is in {place}; use it with dataset={wanted.name}{root}")
    return 0


def by_hand(card: Card, home: Path) -> str:
    """Where to get the files of a dataset and where to put them.

    Args:
        card: The dataset, whose card says it.
        home: Folder of the datasets.

    Returns:
        A few lines.
    """
    assert card.manual is not None  # only asked of such a card
    lines = [f"{card.name} is to be had by hand: {card.manual.obtain}", f"Put the files into {card.place(home)}:"]
    lines += [f"  {line}" for line in card.manual.layout]
    lines += [f"Homepage: {card.homepage}", f"Licence: {card.licence}", f"Cite: {card.citation}"]
    return "\n".join([*lines, *([f"Note: {card.notes}"] if card.notes else [])])


def _terms(card: Card) -> str:
    size = "" if card.size_bytes is None else f" ({size_text(card.size_bytes)})"
    unknown = [file.file_name for file in card.files if file.checksum is None]
    lines = [f"{card.title}{size}", f"Licence: {card.licence}", f"Cite: {card.citation}"]
    lines += [f"Note: {card.notes}"] if card.notes else []
    lines += [f"No checksum is known of {', '.join(unknown)}, so a change would go unseen."] if unknown else []
    return "\n".join(lines)


def _ask_for_consent(card: Card, *, consents: bool) -> None:
    """Let nobody download what may not be used commercially without having been told."""
    if consents or not card.non_commercial:
        return
    question = f"{card.name} is for non-commercial use only, or its terms are unclear: {card.licence} ({card.homepage})"
    if sys.stdin.isatty() and sys.stderr.isatty():
        print(f"{question}\nDo you accept this? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() in ("y", "yes"):
            return
        raise UsageError(f"{card.name} was not fetched, as its terms were not accepted")
    raise UsageError(f"{question}; add --yes if you accept this")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medexp data fetch",
        description="Download a named dataset, or say where it is to be had; `medexp data list` shows the names.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="name of the dataset, or a card of your own (YAML)")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="folder of datasets, in which it gets a folder")
    parser.add_argument("--yes", action="store_true", help="accept terms that exclude commercial use")
    return parser


@contextmanager
def _progress() -> Iterator[Callable[[str], Progress]]:
    """A bar where somebody looks at a terminal, else a line at each tenth."""
    if not sys.stderr.isatty():
        yield _lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:

        def show(file_name: str) -> Progress:
            task = bar.add_task(file_name, total=None)
            return lambda done, total: bar.update(task, completed=done, total=total)

        yield show


def _lines(file_name: str) -> Progress:
    told = -1.0

    def tell(done: int, total: int | None) -> None:
        nonlocal told
        share = done / total if total else 0.0
        if told < 0 or share >= told + _STEP or (share >= 1 > told):
            told = share
            of = f" of {size_text(total)}" if total else ""
            print(f"{file_name}: {size_text(done)}{of}", file=sys.stderr, flush=True)

    return tell

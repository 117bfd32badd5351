"""`medexp gc`: remove what is not needed any more."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from platformdirs import user_cache_path

from medexp.compare.status import study_folder
from medexp.core.errors import RecordError, UsageError
from medexp.core.leftovers import SET_ASIDE, Leftover, clean_run, half_written, remove, set_aside_runs, unused_cache
from medexp.core.record import RunFolder

_UNITS = ("B", "kB", "MB", "GB", "TB")


def gc_command(words: Sequence[str]) -> int:
    """List, or remove, what is not needed any more.

    Args:
        words: Words after `medexp gc`.

    Returns:
        0.

    Raises:
        UsageError: There is no such study, or a number is out of range.
    """
    arguments = _parser().parse_args(list(words))
    if arguments.keep < 0:
        raise UsageError(f"--keep needs a whole number from 0 on, got {arguments.keep}")
    if arguments.cache_days is not None and arguments.cache_days <= 0:
        raise UsageError(f"--cache-days needs a number above 0, got {arguments.cache_days:g}")
    found = [*_from_runs(arguments), *_from_cache(arguments)]
    for leftover in found:
        print(f"{_shown(leftover.size_bytes):>9}  {leftover.path}  ({leftover.why})")
    total = f"{len(found)} item{'' if len(found) == 1 else 's'}, {_shown(sum(item.size_bytes for item in found))}"
    if not found:
        print("nothing to remove")
    else:
        print(f"removed {total}" if arguments.yes else f"{total} would go; the same command with --yes removes them")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medexp gc",
        description="Remove what is not needed any more: older checkpoints of finished runs and leftovers of killed "
        "processes. Runs that are being written are left alone. Without --yes it only says what would go.",
    )
    parser.add_argument("study", nargs="?", help="name of a study, or its folder (default: all studies)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all studies (default: runs)")
    parser.add_argument("--keep", type=int, default=1, metavar="N", help="newest checkpoints that stay (default: 1)")
    parser.add_argument("--set-aside", action="store_true", help="also runs that on_change=new has set aside")
    parser.add_argument("--cache", type=Path, help="folder of the cache (default: MEDEXP_CACHE, or the user's)")
    parser.add_argument("--cache-days", type=float, metavar="D", help="also prepared cases not used for D days")
    parser.add_argument("--yes", action="store_true", help="remove it")
    return parser


def _from_runs(arguments: argparse.Namespace) -> Iterator[Leftover]:
    runs: Path = arguments.runs
    if arguments.study is not None:
        studies = [study_folder(arguments.study, runs)]
    else:
        studies = sorted(path for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else []
    for study in studies:
        for path in sorted(study.iterdir()):
            is_run = (path / "run.json").exists() or (path / ".lock").exists()
            if is_run and SET_ASIDE not in path.name:
                yield from _from_run(RunFolder(path), arguments)
        of_study = [item for item in half_written(study) if item.path.parent == study]
        of_study += set_aside_runs(study) if arguments.set_aside else []
        yield from _taken(of_study, arguments)


def _from_run(run: RunFolder, arguments: argparse.Namespace) -> list[Leftover]:
    try:
        return clean_run(run, keep=arguments.keep, delete=arguments.yes)
    except RecordError as error:
        print(f"left alone: {error}", file=sys.stderr)
        return []


def _from_cache(arguments: argparse.Namespace) -> list[Leftover]:
    cache = arguments.cache or Path(os.environ.get("MEDEXP_CACHE") or user_cache_path("medexp"))
    found = half_written(cache)
    if arguments.cache_days is not None:
        found += unused_cache(cache, days=arguments.cache_days)
    return _taken(found, arguments)


def _taken(found: list[Leftover], arguments: argparse.Namespace) -> list[Leftover]:
    if arguments.yes:
        remove(found)
    return found


def _shown(size_bytes: int) -> str:
    """A size in words, in powers of 1000."""
    power = 0
    while size_bytes >= 1000 ** (power + 1) and power + 1 < len(_UNITS):
        power += 1
    return f"{size_bytes / 1000**power:.{min(power, 1)}f} {_UNITS[power]}"

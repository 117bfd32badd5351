"""A report on the terminal: a table with a line for each fault, then the numbers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medexp.core.faults import Fault, Severity
from medexp.data.integrity.report import Report

_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow"}
_WARNINGS_OF_A_CHECK = 3


def print_report(report: Report, console: Console, *, every: bool = False) -> None:
    """Print what a check found: all errors, and of each kind of warning the first ones.

    Args:
        report: The report.
        console: Where to.
        every: Print all warnings too.
    """
    shown = report.faults if every else tuple(_shortened(report))
    folder = common_folder(report)
    if shown:
        console.print(_table(shown, folder))
    hidden = Counter(fault.check for fault in report.faults)
    hidden.subtract(fault.check for fault in shown)
    for check, count in hidden.items():
        if count:
            console.print(Text(f"and {count} more warnings {check} (--all shows them)"))
    if folder is not None:
        console.print(Text(f"files are in {folder}"), soft_wrap=True)
    for note in report.notes():
        console.print(Text(note), soft_wrap=True)
    console.print(Text(report.summary()), soft_wrap=True)


def common_folder(report: Report) -> Path | None:
    """The folder that holds all files of the faults; None where there is no file, or no such folder but the root."""
    files = [str(fault.file.absolute()) for fault in report.faults if fault.file is not None]
    if not files:
        return None
    try:
        folder = Path(os.path.commonpath([os.path.dirname(file) for file in files]))
    except ValueError:  # on several drives
        return None
    return None if folder == Path(folder.anchor) else folder


def short_name(fault: Fault, folder: Path | None) -> str:
    """The file of a fault as seen from a folder; empty where it has none."""
    if fault.file is None:
        return ""
    return str(fault.file if folder is None else fault.file.absolute().relative_to(folder))


def _shortened(report: Report) -> Iterator[Fault]:
    yield from report.errors
    seen: Counter[str] = Counter()
    for fault in report.warnings:
        seen[fault.check] += 1
        if seen[fault.check] <= _WARNINGS_OF_A_CHECK:
            yield fault


def _table(faults: tuple[Fault, ...], folder: Path | None) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("severity", "check", "case", "file", "needs", "got", "remedy"):
        table.add_column(title, overflow="fold")
    for fault in faults:
        table.add_row(
            Text(fault.severity.value, style=_STYLES[fault.severity]),
            Text(fault.check),
            Text(fault.case_id or ""),
            Text(short_name(fault, folder)),
            Text(fault.expected),
            Text(fault.found),
            Text(fault.remedy),
        )
    return table

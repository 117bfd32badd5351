"""A report as one HTML file that needs nothing else: what is wrong, with pictures of the cases."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from medexp.core.faults import Fault, Severity
from medexp.core.files import write_text
from medexp.core.types import Case, Source
from medexp.data.integrity.checks import CHECKS
from medexp.data.integrity.report import Report
from medexp.data.integrity.table import common_folder, short_name
from medexp.data.integrity.thumbnails import thumbnail

_TEMPLATE = "page.html.j2"
_FAULTY_SHOWN, _GOOD_SHOWN = 24, 6
# A browser does not like tables of a million lines.
_FAULTS_OF_A_CHECK = 1000


@dataclass(frozen=True)
class _Picture:
    case_id: str
    told: tuple[str, ...]
    png: str


@dataclass(frozen=True)
class _Section:
    check: str
    severity: str
    about: str
    count: int
    rows: tuple[tuple[Fault, str], ...]


def write_page(report: Report, source: Source | None, path: Path) -> None:
    """Write the page of a report, with the faulty cases that can be read and a few good ones.

    Args:
        report: The report.
        source: Reads the cases that are drawn; None draws none.
        path: The file to write.
    """
    environment = Environment(
        loader=PackageLoader("medexp.data.integrity", "."), autoescape=True, undefined=StrictUndefined
    )
    by_case: dict[str, list[Fault]] = defaultdict(list)
    for fault in report.faults:
        if fault.case_id is not None:
            by_case[fault.case_id].append(fault)
    faulty = [case for case in report.cases if case.case_id in by_case]
    # Those with errors first; the sort keeps the dataset's order otherwise.
    faulty.sort(key=lambda case: all(one.severity is Severity.WARNING for one in by_case[case.case_id]))
    good = [case for case in report.cases if case.case_id not in by_case]
    text = environment.get_template(_TEMPLATE).render(
        report=report,
        folder=common_folder(report),
        sections=_sections(report),
        faulty=_pictures(source, faulty, by_case, most=_FAULTY_SHOWN),
        good=_pictures(source, _spread(good, _GOOD_SHOWN), by_case, most=_GOOD_SHOWN),
    )
    write_text(path, text)


def _sections(report: Report) -> list[_Section]:
    found: dict[tuple[str, str], list[Fault]] = defaultdict(list)
    for fault in report.faults:
        found[fault.check, fault.severity.value].append(fault)
    folder = common_folder(report)
    return [
        _Section(
            check=check,
            severity=severity,
            about=CHECKS[check].about if check in CHECKS else "what the source found",
            count=len(faults),
            rows=tuple((fault, short_name(fault, folder)) for fault in faults[:_FAULTS_OF_A_CHECK]),
        )
        for (check, severity), faults in found.items()
    ]


def _pictures(
    source: Source | None, cases: Sequence[Case], by_case: dict[str, list[Fault]], *, most: int
) -> list[_Picture]:
    """Thumbnails of the first cases that can be drawn."""
    drawn: list[_Picture] = []
    for case in cases:
        if source is None or len(drawn) == most:
            break
        try:
            png = thumbnail(source.read(case))
        except Exception:  # what cannot be read or drawn is in the table above
            continue
        told = tuple(dict.fromkeys(fault.check for fault in by_case.get(case.case_id, ())))
        drawn.append(_Picture(case.case_id, told, base64.b64encode(png).decode()))
    return drawn


def _spread(cases: Sequence[Case], count: int) -> list[Case]:
    """At most so many cases, evenly spread over all."""
    n = min(count, len(cases))
    return [cases[place * len(cases) // n] for place in range(n)]

"""What a check of a dataset found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from medexp.core.faults import Fault, Severity
from medexp.core.types import Case
from medexp.data.integrity.policy import Mode
from medexp.data.splits import Known, Parts


@dataclass(frozen=True)
class Report:
    """What is wrong with a dataset.

    Attributes:
        dataset: Its name.
        mode: What an error does.
        cases: All cases that the source listed.
        faults: Errors first, then warnings.
        parts: The split, or None where there is none or the cases cannot be split.
        n_read: Cases that were read for this check; the others were known from an earlier one.
        known: Tells what the cases show; None where they cannot be listed.
    """

    dataset: str
    mode: Mode
    cases: tuple[Case, ...] = ()
    faults: tuple[Fault, ...] = ()
    parts: Parts | None = None
    n_read: int = 0
    known: Known | None = field(default=None, compare=False, repr=False)

    @property
    def errors(self) -> tuple[Fault, ...]:
        """The faults that keep cases from being used."""
        return tuple(fault for fault in self.faults if fault.severity is Severity.ERROR)

    @property
    def warnings(self) -> tuple[Fault, ...]:
        """The other faults."""
        return tuple(fault for fault in self.faults if fault.severity is Severity.WARNING)

    @property
    def quarantined(self) -> tuple[str, ...]:
        """Ids of the cases that are left out, in the order of the dataset."""
        if self.mode is not Mode.QUARANTINE:
            return ()
        wrong = {fault.case_id for fault in self.errors}
        return tuple(dict.fromkeys(case.case_id for case in self.cases if case.case_id in wrong))

    def summary(self) -> str:
        """The numbers of cases, errors and warnings, and of the faults by check, in a line."""
        text = f"{self.dataset}: {len(self.cases)} cases checked"
        for name, faults in (("error", self.errors), ("warning", self.warnings)):
            text += f", {len(faults)} {name}{'' if len(faults) == 1 else 's'}"
            if faults:
                text += f" ({', '.join(f'{check} {n}' for check, n in Counter(one.check for one in faults).items())})"
        return text

    def notes(self) -> list[str]:
        """What the record of a run has to say of the cases that were left out or are used in spite of errors."""
        if self.quarantined:
            checks = {
                case_id: [one.check for one in self.errors if one.case_id == case_id] for case_id in self.quarantined
            }
            named = ", ".join(f"{case_id} ({', '.join(dict.fromkeys(found))})" for case_id, found in checks.items())
            return [
                f"left out {len(self.quarantined)} of {len(self.cases)} cases by dataset.integrity=quarantine: {named}"
            ]
        if self.errors and self.mode is Mode.WARN:
            return [f"trained in spite of errors in the data by dataset.integrity=warn: {self.summary()}"]
        return []

    def as_plain(self) -> dict[str, Any]:
        """The report for JSON."""
        return {
            "dataset": self.dataset,
            "integrity": self.mode.value,
            "cases": len(self.cases),
            "read": self.n_read,
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "quarantined": list(self.quarantined),
            "faults": [fault.as_plain() for fault in self.faults],
        }


def in_order(faults: Iterable[Fault]) -> tuple[Fault, ...]:
    """Errors first; faults of one check follow each other, in the order in which they came."""
    told = list(faults)
    first: dict[str, int] = {}
    for place, fault in enumerate(told):
        first.setdefault(fault.check, place)
    return tuple(sorted(told, key=lambda fault: (fault.severity is not Severity.ERROR, first[fault.check])))

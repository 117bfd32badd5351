"""What is wrong with a dataset: one fault each, with case, file, what was expected, what was found, and the remedy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class Severity(StrEnum):
    """Whether a fault keeps a case from being used."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Fault:
    """Something that is not as a source promises.

    Attributes:
        check: Short name of what was checked, such as "missing_label"; the same for every source.
        expected: What is needed, in words that follow "needs".
        found: What is there instead, in words that follow "got".
        remedy: What the user can do.
        case_id: The case; None for a fault of the whole dataset.
        file: The file; None where none is to blame.
        severity: Whether the case can be used nevertheless.
    """

    check: str
    expected: str
    found: str
    remedy: str
    case_id: str | None = None
    file: Path | None = None
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        case = "" if self.case_id is None else f"case {self.case_id}: "
        file = "the dataset" if self.case_id is None else "it"
        return f"{case}{self.file or file} needs {self.expected}, got {self.found}; {self.remedy}"

    def as_plain(self) -> dict[str, Any]:
        """The fault for JSON."""
        return {
            "check": self.check,
            "severity": self.severity.value,
            "case_id": self.case_id,
            "file": None if self.file is None else str(self.file),
            "expected": self.expected,
            "found": self.found,
            "remedy": self.remedy,
        }

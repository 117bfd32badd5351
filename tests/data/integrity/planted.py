"""What was planted into a dataset, and whether a report names it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Planted:
    """A bad input.

    Attributes:
        what: Its number and words in the list of bad inputs.
        case_id: The case that a report has to name; None where it is the whole dataset.
        checks: Name of the check that finds it, or names of which one is enough.
        words: What the fault has to say too.
        error: Whether it has to be an error; else a warning is enough.
    """

    what: str
    case_id: str | None
    checks: str | tuple[str, ...]
    words: str = ""
    error: bool = True

    def is_named(self, faults: Iterable[Mapping[str, Any]]) -> bool:
        """Whether one of the faults of a report names this."""
        checks = (self.checks,) if isinstance(self.checks, str) else self.checks
        return any(
            fault["check"] in checks
            and fault["case_id"] == self.case_id
            and self.words in f"{fault['expected']} {fault['found']} {fault['remedy']} {fault['file']}"
            and (fault["severity"] == "error" or not self.error)
            and bool(fault["expected"] and fault["found"] and fault["remedy"])
            for fault in faults
        )

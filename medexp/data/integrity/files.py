"""Which file of a case is to blame."""

from __future__ import annotations

from pathlib import Path

from medexp.core.types import Case


def image_file(case: Case, channel: int = 0) -> Path | None:
    """The file that holds a channel; None where the case has no file of its own."""
    if not case.images:
        return None
    return case.images[channel] if channel < len(case.images) else case.images[0]


def reference_file(case: Case, *names: str) -> Path | None:
    """The first of some files of the annotation that there is, else any of them."""
    found = [case.references[name] for name in names if name in case.references]
    return next(iter([*found, *case.references.values()]), None)

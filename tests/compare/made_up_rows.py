"""Evidence rows by hand."""

from __future__ import annotations

from collections.abc import Iterable

from medexp.core.types import EvidenceRow, Outcome


def dice_rows(
    values: Iterable[float], *, prefix: str = "c", label: str = "organ", group_size: int = 1
) -> list[EvidenceRow]:
    """Dice of cases, one after the other in groups."""
    return [
        EvidenceRow(f"{prefix}_{place:03d}", f"{prefix}_g{place // group_size:03d}", "dice", label, float(value))
        for place, value in enumerate(values)
    ]


def auroc_rows(truths: Iterable[bool], scores: Iterable[float]) -> list[EvidenceRow]:
    """Scores of images for one class."""
    return [
        EvidenceRow(
            case_id=f"c_{place:03d}",
            group=f"c_{place:03d}",
            metric="auroc",
            label="ill",
            value=float("nan"),
            score=float(score),
            outcome=Outcome.POSITIVE if truth else Outcome.NEGATIVE,
        )
        for place, (truth, score) in enumerate(zip(truths, scores, strict=True))
    ]


def object_rows(counts: Iterable[tuple[int, int, int]], *, metric: str) -> list[EvidenceRow]:
    """Matches, misses and false alarms of each case."""
    outcomes = (Outcome.MATCH, Outcome.MISS, Outcome.FALSE_ALARM)
    return [
        EvidenceRow(
            case_id=f"c_{place:03d}",
            group=f"c_{place:03d}",
            metric=metric,
            label="cell",
            value=0.8 if outcome is Outcome.MATCH else float("nan"),
            outcome=outcome,
        )
        for place, numbers in enumerate(counts)
        for outcome, number in zip(outcomes, numbers, strict=True)
        for _ in range(number)
    ]

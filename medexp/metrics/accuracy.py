"""Share of the images whose label is right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medexp import __version__
from medexp.core.types import EvidenceRow, Kind, Prediction
from medexp.metrics._per_case import MEAN, defined_mean, means_by_label
from medexp.metrics._scores import check_exclusive, scores_of


class Accuracy:
    """1 for an image whose label is right and 0 for another, by true class; of equal scores the first class counts.

    Under each class stands the share of its images that were recognised (its recall).

    Args:
        balanced: The mean is over the classes and not over the images, so that a rare class counts as much.
        name: Name of the metric in rows and tables; two variants in one experiment need two names.
    """

    higher_is_better = True
    takes = Kind.SCORES
    per_case = True

    def __init__(self, *, balanced: bool, name: str = "accuracy") -> None:
        self.name = name
        self.balanced = balanced

    def rows(self, prediction: Prediction, reference: Prediction) -> list[EvidenceRow]:
        """One row under the true class.

        Args:
            prediction: Scores of the classes.
            reference: The true class.

        Returns:
            The row.

        Raises:
            UsageError: Several classes may hold at once.
        """
        scores, truth = scores_of(prediction, reference)
        check_exclusive(self.name, prediction, instead="metrics=[auroc,f1]")
        right = int(scores.argmax()) == int(truth.argmax())
        label = reference.classes[int(truth.argmax())].name
        return [EvidenceRow(reference.case_id, reference.group, self.name, label, float(right))]

    def aggregate(self, rows: Sequence[EvidenceRow]) -> dict[str, float]:
        """Share of right images by true class, and over all images (or the mean of the classes, if balanced)."""
        shares = means_by_label(rows)
        overall = shares.values() if self.balanced else [row.value for row in rows]
        return {**shares, MEAN: defined_mean(overall)}

    def definition(self) -> dict[str, Any]:
        """What makes two values comparable."""
        return {
            "implementation": f"medexp {__version__}",
            "aggregation": "mean over classes" if self.balanced else "mean over images",
            "better": "higher",
            "unit": "fraction",
        }

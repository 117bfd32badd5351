"""Error of the number of objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medexp import __version__
from medexp.core.errors import DataError, UsageError
from medexp.core.types import EvidenceRow, Kind, Prediction
from medexp.metrics._boxes import objects_of
from medexp.metrics._per_case import MEAN, defined_mean, means_by_label

_WAYS = ("objects", "integral")


class CountError:
    """How far the number of objects is off, in each case and class; the mean over cases is the mean absolute error.

    Source: the mean absolute error of counts in V. Lempitsky and A. Zisserman, Learning to count objects in images,
    NIPS 2010.

    Args:
        by: "objects" counts the predicted objects, "integral" takes the integral of the predicted density, which is no
            whole number and does not depend on how peaks are found.
        min_score: Objects with a lower score are not counted; without a meaning for "integral".

    Raises:
        UsageError: A knob has a value that is not listed.
    """

    name = "count_error"
    higher_is_better = False
    takes = Kind.OBJECTS
    per_case = True

    def __init__(self, *, by: str, min_score: float) -> None:
        if by not in _WAYS:
            raise UsageError(f"count_error.by needs {' or '.join(_WAYS)}, got {by!r}")
        if not 0 <= min_score <= 1:
            raise UsageError(f"count_error.min_score needs a value from 0 to 1, got {min_score}")
        self.by = by
        self.min_score = min_score

    def rows(self, prediction: Prediction, reference: Prediction) -> list[EvidenceRow]:
        """One row for each class, whose value is the absolute error in objects.

        Args:
            prediction: With objects; with a density too where that is what counts.
            reference: With objects.

        Returns:
            The rows, in the order of the classes.

        Raises:
            DataError: Prediction and reference do not belong together, or lack what is counted.
        """
        found, wanted = objects_of(prediction, reference)
        if self.by == "integral":
            counts = _integrals(prediction)
        else:
            sure = found.labels[found.scores >= self.min_score]
            counts = np.array([np.count_nonzero(sure == structure.value) for structure in prediction.classes])
        return [
            EvidenceRow(
                case_id=reference.case_id,
                group=reference.group,
                metric=self.name,
                label=structure.name,
                value=abs(float(count) - np.count_nonzero(wanted.labels == structure.value)),
            )
            for structure, count in zip(prediction.classes, counts, strict=True)
        ]

    def aggregate(self, rows: Sequence[EvidenceRow]) -> dict[str, float]:
        """Mean over cases by class, and the mean of the classes."""
        means = means_by_label(rows)
        return {**means, MEAN: defined_mean(means.values())}

    def definition(self) -> dict[str, Any]:
        """What makes two values comparable."""
        return {
            "implementation": f"medexp {__version__}",
            "aggregation": "per case",
            "better": "lower",
            "unit": "objects",
            "parameters": {"by": self.by, "min_score": self.min_score},
        }


def _integrals(prediction: Prediction) -> np.ndarray:
    density = prediction.maps.get("density")
    if density is None:
        raise DataError(
            f"case {prediction.case_id} has no density; set metrics.count_error.by=objects, or choose a task "
            "that gives one"
        )
    return density.reshape(len(density), -1).sum(axis=1, dtype=np.float64)

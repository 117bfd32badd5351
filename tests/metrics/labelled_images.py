"""Scores of images and what is true of them, as predictions and references."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medexp.core.geometry import Geometry
from medexp.core.types import EvidenceRow, Metric, Prediction, StructureClass

NAMES = "abcd"


def scored(case_id: str, scores: Sequence[float], *, exclusive: bool = True) -> Prediction:
    classes = tuple(StructureClass(name, 0, value) for value, name in enumerate(NAMES[: len(scores)]))
    geometry = Geometry.from_spacing((2, 2), (1.0, 1.0))
    return Prediction(
        case_id, f"group of {case_id}", geometry, classes, exclusive=exclusive, scores=np.array(scores, float)
    )


def rows_of(metric: Metric, scores: np.ndarray, truths: np.ndarray, *, exclusive: bool = True) -> list[EvidenceRow]:
    """Rows of images; truths: 1 or 0 for each class, or the class itself."""
    if truths.ndim == 1:
        truths = np.eye(scores.shape[1])[truths]
    return [
        row
        for number, (own, known) in enumerate(zip(scores, truths, strict=True))
        for row in metric.rows(
            scored(str(number), own, exclusive=exclusive), scored(str(number), known, exclusive=exclusive)
        )
    ]


def value_of(metric: Metric, scores: np.ndarray, truths: np.ndarray, *, exclusive: bool = True) -> dict[str, float]:
    return metric.aggregate(rows_of(metric, scores, truths, exclusive=exclusive))


def grades(seed: int, *, cases: int = 80, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that sum to one and hold something of the truth, and classes some of which are rare."""
    random = np.random.default_rng(seed)
    shares = np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()
    truths = random.choice(classes, size=cases, p=shares)
    logits = random.normal(size=(cases, classes)) + 1.5 * np.eye(classes)[truths]
    odds = np.exp(logits)
    return odds / odds.sum(axis=1, keepdims=True), truths


def findings(seed: int, *, cases: int = 80, classes: int = 3, decimals: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of labels that may hold at once, and which do."""
    random = np.random.default_rng(seed)
    truths = random.random((cases, classes)) < np.linspace(0.15, 0.5, classes)
    scores = 1 / (1 + np.exp(-random.normal(size=(cases, classes)) - 1.5 * (truths - 0.5)))
    return scores.round(decimals), truths

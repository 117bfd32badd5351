"""Predictions with maps that tell objects apart, for the tests of steps that make instances of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medexp.core.geometry import Geometry
from medexp.core.types import Prediction, StructureClass


def predict(
    foreground: np.ndarray, maps: Mapping[str, np.ndarray], *, spacing: tuple[float, ...] | None = None, **fields
) -> Prediction:
    """A prediction with the probability of a single class, and maps, all read-only."""
    soft = np.stack([1 - foreground, foreground]).astype(np.float32)
    maps = {name: np.asarray(each, dtype=np.float32) for name, each in maps.items()}
    for array in (soft, *maps.values()):
        array.setflags(write=False)
    geometry = Geometry.from_spacing(foreground.shape, spacing or (1.0,) * foreground.ndim)
    classes = (StructureClass("nucleus", 0, 1),)
    return Prediction("case_7", "patient_7", geometry, classes, probabilities=soft, maps=maps, **fields)

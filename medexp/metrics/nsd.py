"""Normalised surface Dice."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool

from medexp.core.errors import UsageError
from medexp.core.geometry import Geometry
from medexp.metrics import _surface
from medexp.metrics._per_case import PerCaseMetric, empty_rule, rule_in_words

# Spacings come from headers in single precision: 2 voxels of 0.8 mm lie 1.60000002 mm apart, and count as 1.6 mm.
_SLACK = 1 + 1e-6


class NSD(PerCaseMetric):
    """Share of both surfaces' voxels that lie within a tolerance of the other surface, between 0 and 1.

    The surface is made of the voxels with a face neighbour outside the mask, each counts as one; the edge of the image
    is outside. A voxel exactly at the tolerance counts as within it.

    Source: S. Nikolov et al., Clinically applicable segmentation of head and neck anatomy for radiotherapy, JMIR 23
    (2021); with voxels instead of surface elements, as in S. Seidlitz et al., Robust deep learning-based semantic organ
    segmentation in hyperspectral images, Medical Image Analysis 80 (2022), and in MONAI. DeepMind's package weighs
    surface elements by their area and gives other values.

    Args:
        tolerance_mm: Largest distance that is acceptable, between voxel centres (in pixels where `Geometry.unit` is
            "px"); a paper's value or the variation between annotators.
        both_empty: Value where both masks are empty: 1.0, or nan for undefined.
        one_empty: Value where exactly one mask is empty: 0.0, or nan for undefined.

    Raises:
        UsageError: The tolerance is negative or not finite, or a rule has a value that is not listed.
    """

    name = "nsd"
    higher_is_better = True
    unit = "fraction"
    unit_px = "fraction"
    libraries = _surface.LIBRARIES

    def __init__(
        self, *, tolerance_mm: float, both_empty: float | str = math.nan, one_empty: float | str = 0.0
    ) -> None:
        if not 0 <= tolerance_mm < math.inf:
            raise UsageError(f"nsd.tolerance_mm needs a finite value of at least 0, got {tolerance_mm}")
        self.tolerance_mm = float(tolerance_mm)
        self.both_empty = empty_rule("nsd.both_empty", both_empty, (1.0,))
        self.one_empty = empty_rule("nsd.one_empty", one_empty, (0.0,))

    def _value(
        self, prediction: Bool[np.ndarray, "*spatial"], reference: Bool[np.ndarray, "*spatial"], geometry: Geometry
    ) -> float:
        present = int(prediction.any()) + int(reference.any())
        if present < 2:
            return float(self.one_empty if present else self.both_empty)
        distances = np.concatenate(_surface.surface_distances(prediction, reference, geometry.spacing_mm))
        return float(np.mean(distances.astype(np.float64) <= self.tolerance_mm * _SLACK))

    def _empty_rules(self) -> dict[str, str]:
        return {"both": rule_in_words(self.both_empty), "one": rule_in_words(self.one_empty)}

    def _parameters(self) -> dict[str, float | str | bool]:
        return {"tolerance_mm": self.tolerance_mm}

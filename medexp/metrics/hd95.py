"""Hausdorff distance at a percentile."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool

from medexp.core.errors import UsageError
from medexp.core.geometry import Geometry
from medexp.metrics import _surface
from medexp.metrics._per_case import PerCaseMetric, empty_rule, rule_in_words

_COMBINATIONS = ("max", "pooled")


class HD95(PerCaseMetric):
    """The distance that 95 % of the surface voxels do not exceed, in mm (in pixels where `Geometry.unit` is "px").

    The surface is made of the voxels with a face neighbour outside the mask; the edge of the image is outside.
    Distances run between voxel centres, from each surface voxel of one mask to the nearest of the other.

    Source: D. P. Huttenlocher et al., Comparing images using the Hausdorff distance, IEEE TPAMI 15 (1993), for the
    partial distance; the percentile of each direction and then the larger, as in S. Nikolov et al., Clinically
    applicable segmentation of head and neck anatomy, JMIR 23 (2021) and in MONAI, or the percentile of both directions'
    distances together, as in MedPy.

    Where exactly one mask is empty there is no distance. The image's diagonal, which no distance exceeds, is the
    default then: to leave such cases out would reward a model that predicts nothing in difficult ones.

    Args:
        percentile: Share of the distances, in percent; 100 is the Hausdorff distance. It is part of the name.
        combine: "max", the larger of both directions' percentiles, or "pooled", the percentile of all distances.
        both_empty: Value where both masks are empty: 0.0, or nan for undefined.
        one_empty: Value where exactly one mask is empty: "diagonal", or nan for undefined.

    Raises:
        UsageError: A knob has a value that is not listed.
    """

    higher_is_better = False
    unit = "mm"
    unit_px = "px"
    libraries = _surface.LIBRARIES

    def __init__(
        self,
        *,
        percentile: float = 95.0,
        combine: str = "max",
        both_empty: float | str = math.nan,
        one_empty: float | str = "diagonal",
    ) -> None:
        if not 0 < percentile <= 100:
            raise UsageError(f"hd95.percentile needs a value above 0 and up to 100, got {percentile}")
        if combine not in _COMBINATIONS:
            raise UsageError(f"hd95.combine needs {' or '.join(_COMBINATIONS)}, got {combine!r}")
        self.name = f"hd{percentile:g}"
        self.percentile = float(percentile)
        self.combine = combine
        self.both_empty = empty_rule("hd95.both_empty", both_empty, (0.0,))
        self.one_empty = empty_rule("hd95.one_empty", one_empty, ("diagonal",))

    def _value(
        self, prediction: Bool[np.ndarray, "*spatial"], reference: Bool[np.ndarray, "*spatial"], geometry: Geometry
    ) -> float:
        present = int(prediction.any()) + int(reference.any())
        if present == 0:
            return float(self.both_empty)
        if present == 1:
            return _diagonal(geometry) if self.one_empty == "diagonal" else float(self.one_empty)
        distances = _surface.surface_distances(prediction, reference, geometry.spacing_mm)
        sets = [np.concatenate(distances)] if self.combine == "pooled" else distances
        return max(float(np.percentile(values.astype(np.float64), self.percentile)) for values in sets)

    def _empty_rules(self) -> dict[str, str]:
        return {"both": rule_in_words(self.both_empty), "one": rule_in_words(self.one_empty)}

    def _parameters(self) -> dict[str, float | str | bool]:
        return {"percentile": self.percentile, "combine": self.combine}


def _diagonal(geometry: Geometry) -> float:
    """Length of the image's diagonal, from outer corner to outer corner."""
    return math.hypot(*(size * spacing for size, spacing in zip(geometry.shape, geometry.spacing_mm, strict=True)))

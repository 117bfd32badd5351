"""Difference of volume."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool

from medexp.core.geometry import Geometry
from medexp.metrics._per_case import PerCaseMetric

_MM3_PER_ML = 1000.0


class VolumeDifference(PerCaseMetric):
    """Volume of the prediction minus volume of the reference, in millilitres.

    The value is absolute unless told, since only then a lower value is a better one: a signed difference of -20 ml is
    no better than one of 0 ml. The signed difference has a name of its own and describes bias (positive where the
    prediction is too large); its best value is 0, so it must not be ranked.

    In 2D a voxel is as large as its area: the unit is 1000 mm2. Where the image has no physical scale (`Geometry.unit`
    is "px") the value is a number of pixels. Empty masks need no rule, an empty mask has volume 0.

    Source: the definition of absolute volume difference in T. Heimann et al., Comparison and evaluation of methods for
    liver segmentation from CT datasets, IEEE TMI 28 (2009), in ml instead of percent, so that it is defined for an
    empty reference.

    Args:
        signed: Keep the sign.
    """

    higher_is_better = False
    unit = "ml"
    unit_px = "px"

    def __init__(self, *, signed: bool = False) -> None:
        self.signed = signed
        self.name = "signed_volume_difference_ml" if signed else "volume_difference_ml"

    def definition(self) -> dict[str, Any]:
        """What makes two values comparable; the signed difference is better the nearer it is to 0."""
        return {**super().definition(), **({"better": "nearest 0"} if self.signed else {})}

    def _value(
        self, prediction: Bool[np.ndarray, "*spatial"], reference: Bool[np.ndarray, "*spatial"], geometry: Geometry
    ) -> float:
        voxels = int(np.count_nonzero(prediction)) - int(np.count_nonzero(reference))
        scale = 1.0 if geometry.unit == "px" else geometry.voxel_volume_mm3 / _MM3_PER_ML
        return scale * (voxels if self.signed else abs(voxels))

    def _empty_rules(self) -> dict[str, str]:
        return {"both": "0.0", "one": "volume of the other"}

    def _parameters(self) -> dict[str, float | str | bool]:
        return {"signed": self.signed}

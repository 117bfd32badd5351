"""Maps as shares of their largest value in each object."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer


def shares(
    distance_px: Float[np.ndarray, "*spatial"], instances: Integer[np.ndarray, "*spatial"]
) -> Float[np.ndarray, "*spatial"]:
    """Distances as shares of the largest one in each object, 0 outside."""
    largest = np.zeros(int(instances.max(initial=0)) + 1, dtype=distance_px.dtype)
    inside = instances > 0
    np.maximum.at(largest, instances[inside], distance_px[inside])
    scale = np.divide(1.0, largest, out=np.zeros_like(largest), where=largest > 0)
    return distance_px * scale[instances]

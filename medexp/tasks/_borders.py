"""Where objects end."""

from __future__ import annotations

import edt
import numpy as np
from jaxtyping import Bool, Integer


def border_of(instances: Integer[np.ndarray, "*spatial"], width_px: float) -> Bool[np.ndarray, "*spatial"]:
    """The voxels of objects that lie near another object or the background; the edge of the image is no border.

    Args:
        instances: Id of the object of each voxel, 0 for background.
        width_px: Largest distance between the centre of a voxel and that of the next voxel of another id.

    Returns:
        The border.
    """
    distance_px = edt.edt(np.ascontiguousarray(instances))
    border: np.ndarray = (instances > 0) & (distance_px <= width_px * (1 + 1e-6))
    return border

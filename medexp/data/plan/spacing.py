"""The grid that images are brought to."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

# nnU-Net's thresholds (Isensee et al., Nature Methods 18, 2021).
_ANISOTROPIC = 3.0
_COARSE_PERCENTILE = 10.0


def target_spacing(
    spacings_mm: Float[np.ndarray, "cases dims"], shapes: Float[np.ndarray, "cases dims"]
) -> tuple[tuple[float, ...], str]:
    """The spacing of the network's grid, by nnU-Net's rules.

    It is the median along each axis. Where one axis has a spacing of more than three times the others and less than a
    third of their voxels, the tenth percentile is taken along it instead, since a median of thick slices would blur
    the cases that have thinner ones.

    Args:
        spacings_mm: Distance between the voxels of each case.
        shapes: Voxels of each case.

    Returns:
        The spacing, and why.
    """
    spacing, shape = np.median(spacings_mm, axis=0), np.median(shapes, axis=0)
    coarsest = int(np.argmax(spacing))
    others = [axis for axis in range(len(spacing)) if axis != coarsest]
    few = shape[coarsest] * _ANISOTROPIC < shape[others].min()
    if not (few and spacing[coarsest] > _ANISOTROPIC * spacing[others].max()):
        return _rounded(spacing), "the median of the cases"
    thin = np.percentile(spacings_mm[:, coarsest], _COARSE_PERCENTILE)
    spacing[coarsest] = max(thin, spacing[others].max())
    return _rounded(
        spacing
    ), f"the median of the cases, and along axis {coarsest}, which is coarse, the tenth percentile"


def resampled_shapes(
    shapes: Float[np.ndarray, "cases dims"], spacings_mm: Float[np.ndarray, "cases dims"], target_mm: tuple[float, ...]
) -> Float[np.ndarray, "cases dims"]:
    """Voxels of each case that cover the same field of view at another spacing, at least one along each axis."""
    return np.maximum(1.0, np.round(shapes * spacings_mm / np.array(target_mm)))


def _rounded(spacing: Float[np.ndarray, "dims"]) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in spacing)

"""Zero mean and unit variance of each image."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float


class ZScore:
    """Zero mean and unit variance per channel and image.

    Args:
        nonzero: Take mean and variance from the voxels that are not zero, and leave zeros at zero (skull-stripped MR).
    """

    def __init__(self, *, nonzero: bool = False) -> None:
        self.nonzero = nonzero

    def __call__(self, pixels: Float[np.ndarray, "channels *spatial"]) -> Float[np.ndarray, "channels *spatial"]:
        """Return the normalised image; a constant channel becomes zero."""
        return np.stack([_zscore(channel, nonzero=self.nonzero) for channel in pixels])

    def knobs(self) -> dict[str, Any]:
        """The name and `nonzero`."""
        return {"name": "zscore", "nonzero": self.nonzero}


def _zscore(channel: np.ndarray, *, nonzero: bool) -> np.ndarray:
    selected = channel != 0 if nonzero else np.ones_like(channel, dtype=bool)
    if not selected.any():
        return np.zeros_like(channel, dtype=np.float32)
    values = channel[selected].astype(np.float64)
    scale = values.std()
    normalised = (channel - values.mean()) / (scale if scale > 0 else 1.0)
    return np.where(selected, normalised, 0.0).astype(np.float32)

"""A window of intensities between percentiles of each image."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from medexp.core.errors import UsageError


class Percentile:
    """Percentiles of each channel and image mapped to 0 and 1, values outside clipped.

    For images without a scale of their own and with outliers (MR, ultrasound, radiographs).

    Args:
        lower: Percentile that becomes 0.
        upper: Percentile that becomes 1.
        nonzero: Take the percentiles of the voxels that are not zero, and leave zeros at zero.
    """

    def __init__(self, *, lower: float, upper: float, nonzero: bool = False) -> None:
        if not 0 <= lower < upper <= 100:
            raise UsageError(f"normalisation needs 0 <= lower < upper <= 100, got lower={lower}, upper={upper}")
        self.lower = lower
        self.upper = upper
        self.nonzero = nonzero

    def __call__(self, pixels: Float[np.ndarray, "channels *spatial"]) -> Float[np.ndarray, "channels *spatial"]:
        """Return the clipped and scaled image; a channel whose percentiles coincide becomes zero."""
        return np.stack([self._scaled(channel) for channel in pixels])

    def knobs(self) -> dict[str, Any]:
        """The name, the percentiles and `nonzero`."""
        return {"name": "percentile", "lower": self.lower, "upper": self.upper, "nonzero": self.nonzero}

    def _scaled(self, channel: np.ndarray) -> np.ndarray:
        selected = channel != 0 if self.nonzero else np.ones_like(channel, dtype=bool)
        if not selected.any():
            return np.zeros_like(channel, dtype=np.float32)
        low, high = np.percentile(channel[selected].astype(np.float64), [self.lower, self.upper])
        if high <= low:
            return np.zeros_like(channel, dtype=np.float32)
        return np.where(selected, np.clip((channel - low) / (high - low), 0.0, 1.0), 0.0).astype(np.float32)

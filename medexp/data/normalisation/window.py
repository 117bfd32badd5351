"""A fixed window of intensities."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from medexp.core.errors import UsageError


class Window:
    """A fixed intensity window mapped to [0, 1], values outside clipped (CT in Hounsfield units, 8-bit pictures).

    Args:
        lower: Intensity that becomes 0.
        upper: Intensity that becomes 1.
    """

    def __init__(self, *, lower: float, upper: float) -> None:
        if upper <= lower:
            raise UsageError(f"normalisation needs lower < upper, got lower={lower}, upper={upper}")
        self.lower = lower
        self.upper = upper

    def __call__(self, pixels: Float[np.ndarray, "channels *spatial"]) -> Float[np.ndarray, "channels *spatial"]:
        """Return the clipped and scaled image."""
        return np.clip((pixels - self.lower) / (self.upper - self.lower), 0.0, 1.0).astype(np.float32)

    def knobs(self) -> dict[str, Any]:
        """The name and the window."""
        return {"name": "window", "lower": self.lower, "upper": self.upper}

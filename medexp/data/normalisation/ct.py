"""Computed tomography: one scale for all images, from the foreground of the training cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from medexp.core.errors import DataError, UsageError
from medexp.data.normalisation.base import Foreground


@dataclass(frozen=True)
class Scale:
    """Intensities of a channel: what is clipped, and what becomes 0 and 1.

    Attributes:
        lower: Smallest intensity that is kept.
        upper: Largest intensity that is kept.
        mean: Intensity that becomes 0.
        std: Distance from it that becomes 1.
    """

    lower: float
    upper: float
    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (self.lower < self.upper and self.std > 0):
            raise UsageError(
                f"normalisation needs lower < upper and std > 0, got lower={self.lower}, upper={self.upper}, "
                f"std={self.std}; set them, or see whether the images are what they should be"
            )


class ClipAndScale:
    """Each channel clipped and scaled by fixed numbers.

    Args:
        scales: The numbers of each channel.
    """

    def __init__(self, scales: Sequence[Scale]) -> None:
        self.scales = tuple(scales)

    def __call__(self, pixels: Float[np.ndarray, "channels *spatial"]) -> Float[np.ndarray, "channels *spatial"]:
        """Return the clipped and scaled image."""
        scaled = [
            (np.clip(channel, scale.lower, scale.upper) - scale.mean) / scale.std
            for channel, scale in zip(pixels, self.scales, strict=True)
        ]
        return np.stack(scaled).astype(np.float32)

    def knobs(self) -> dict[str, Any]:
        """The name and the numbers."""
        return {"name": "clip_and_scale", "scales": [asdict(scale) for scale in self.scales]}


class CT:
    """nnU-Net's scheme (Isensee 2021): clipping at percentiles of the foreground, then its mean to 0 and its SD to 1.

    The foreground is that of the training cases of the fold, all of them together, so that a Hounsfield unit means the
    same in each image and nothing of a held-out case enters. Numbers that are given are used instead; with all four no
    case is read for them, and all folds share one cache.

    Args:
        lower_percentile: Percentile below which intensities are clipped.
        upper_percentile: Percentile above which they are clipped.
        lower: Intensity below which they are clipped; None takes the percentile.
        upper: Intensity above which they are clipped; None takes the percentile.
        mean: Intensity that becomes 0; None takes the foreground's mean.
        std: Distance that becomes 1; None takes the foreground's standard deviation.
    """

    def __init__(
        self,
        *,
        lower_percentile: float = 0.5,
        upper_percentile: float = 99.5,
        lower: float | None = None,
        upper: float | None = None,
        mean: float | None = None,
        std: float | None = None,
    ) -> None:
        if not 0 <= lower_percentile < upper_percentile <= 100:
            raise UsageError(
                f"normalisation needs 0 <= lower_percentile < upper_percentile <= 100, got {lower_percentile} and "
                f"{upper_percentile}"
            )
        self.lower_percentile = lower_percentile
        self.upper_percentile = upper_percentile
        self.given = {"lower": lower, "upper": upper, "mean": mean, "std": std}

    def fit(self, *, channels: tuple[str, ...], foreground: Foreground) -> ClipAndScale:
        """The numbers of each channel.

        Args:
            channels: Names of the channels.
            foreground: Intensities of the training cases; called where a number is not given.

        Returns:
            The normalisation.

        Raises:
            DataError: No training case has a foreground.
            UsageError: The numbers contradict each other.
        """
        if None not in self.given.values():
            return ClipAndScale([self._scale(np.zeros(0)) for _ in channels])
        found = foreground()
        if any(len(intensities) == 0 for intensities in found):
            raise DataError(
                "clipping and scaling of CT needs annotated voxels in the training cases, got none; set lower, upper, "
                "mean and std of the normalisation, or choose another scheme"
            )
        return ClipAndScale([self._scale(intensities) for intensities in found])

    def _scale(self, intensities: Float[np.ndarray, "voxels"]) -> Scale:
        if len(intensities) == 0:
            return Scale(**{name: float(value) for name, value in self.given.items() if value is not None})
        values = intensities.astype(np.float64)
        lower, upper = np.percentile(values, [self.lower_percentile, self.upper_percentile])
        found = {"lower": lower, "upper": upper, "mean": values.mean(), "std": values.std()}
        # Six digits, so that a sum in another order is the same number and the same key of the cache.
        rounded = {name: float(f"{value:.6g}") for name, value in found.items()}
        return Scale(**{name: rounded[name] if value is None else float(value) for name, value in self.given.items()})

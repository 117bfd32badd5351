"""Probabilities to a mask by two thresholds."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from medexp.core.errors import UsageError
from medexp.core.types import Kind, Prediction
from medexp.post_processing._components import numbered
from medexp.post_processing._knobs import check_connectivity, check_probability
from medexp.post_processing._masks import empty_mask, soft_regions


class Hysteresis:
    """Mark the connected parts above a low threshold that reach a high one, region by region.

    For exclusive classes it is defined where there is one, as `Threshold` is.

    Source: J. Canny, A computational approach to edge detection, IEEE Transactions on Pattern Analysis and Machine
    Intelligence 8 (1986).

    Args:
        low: Probability from which on a voxel may belong to the region, above 0.
        high: Probability that a part must reach somewhere, not below `low` and up to 1.
        connectivity: Of the voxels of a part: "faces", neighbours share a face (4 in 2D, 6 in 3D), or "corners", they
            may share a corner only (8 in 2D, 26 in 3D).

    Raises:
        UsageError: A threshold lies outside its range, or there is no such connectivity.
    """

    takes = Kind.PROBABILITIES
    gives = Kind.MASK

    def __init__(self, *, low: float = 0.3, high: float = 0.7, connectivity: str = "corners") -> None:
        self.low = check_probability(low, "hysteresis.low")
        self.high = check_probability(high, "hysteresis.high")
        if high < low:
            raise UsageError(f"hysteresis.high needs at least hysteresis.low={low}, got {high}")
        self.connectivity = check_connectivity(connectivity, "hysteresis")

    def __call__(self, prediction: Prediction) -> Prediction:
        """Make the mask.

        Args:
            prediction: Regions with a probability each, or background and a single class.

        Returns:
            The prediction with a mask of one layer for each region.

        Raises:
            UsageError: There are several exclusive classes, or no probabilities.
            DataError: The probabilities do not fit the classes, or hold nan.
        """
        soft = soft_regions(prediction, "hysteresis")
        mask = empty_mask(prediction.classes, soft.shape[1:])
        for channel, structure in zip(soft, prediction.classes, strict=True):
            mask[structure.layer][parts_that_reach(channel, self.low, self.high, self.connectivity)] = structure.value
        return prediction.with_mask(mask)


def parts_that_reach(
    soft: Float[np.ndarray, "*spatial"], low: float, high: float, connectivity: str
) -> Bool[np.ndarray, "*spatial"]:
    """The connected parts of at least `low` that somewhere have at least `high`."""
    numbers = numbered(soft >= low, connectivity)
    reaches = np.zeros(int(numbers.max(initial=0)) + 1, dtype=bool)
    reaches[numbers[soft >= high]] = True
    return reaches[numbers]

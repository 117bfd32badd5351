"""Probabilities of overlapping regions to a mask."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer

from medexp.core.types import Kind, Prediction, StructureClass
from medexp.post_processing._knobs import check_probability
from medexp.post_processing._masks import empty_mask, soft_regions


class Threshold:
    """Mark each region where its probability is at least a threshold, in a layer of its own.

    For exclusive classes it is defined where there is one: the voxels where the probability of that class is at least
    the threshold. Among several exclusive classes a threshold can mark none or two of them, so it is refused.

    Args:
        threshold: Probability from which on a voxel belongs to the region, above 0 and up to 1.

    Raises:
        UsageError: The threshold lies outside that range.
    """

    takes = Kind.PROBABILITIES
    gives = Kind.MASK

    def __init__(self, *, threshold: float = 0.5) -> None:
        self.threshold = check_probability(threshold, "threshold.threshold")

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
        soft = soft_regions(prediction, "threshold")
        mask = empty_mask(prediction.classes, soft.shape[1:])
        return prediction.with_mask(_fill_above(mask, soft, prediction.classes, self.threshold))


def _fill_above(
    mask: Integer[np.ndarray, "layers *spatial"],
    soft: Float[np.ndarray, "regions *spatial"],
    classes: tuple[StructureClass, ...],
    threshold: float,
) -> Integer[np.ndarray, "layers *spatial"]:
    """Write each region's value into its layer of an empty mask."""
    for channel, structure in zip(soft, classes, strict=True):
        mask[structure.layer][channel >= threshold] = structure.value
    return mask

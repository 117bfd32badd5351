"""Smooth probabilities."""

from __future__ import annotations

from collections.abc import Sequence

from scipy import ndimage

from medexp.core.types import SOFT, Prediction
from medexp.post_processing._knobs import check_names, check_positive
from medexp.post_processing._masks import with_channels


class Smooth:
    """Convolve the probabilities of each class with a Gaussian, the same in mm along each axis.

    Outside the image everything is like the nearest voxel inside; the Gaussian is cut off at four standard deviations.
    Exclusive classes that together exceed one are divided by their sum, and the background gets what is left.

    Args:
        sigma_mm: Standard deviation, in mm; in pixels where `Geometry.unit` is "px".
        classes: Names of the classes to work on; None for all. The others stay as they are.

    Raises:
        UsageError: A knob has a value that has no meaning.
    """

    takes = SOFT
    gives = None

    def __init__(self, *, sigma_mm: float, classes: Sequence[str] | None = None) -> None:
        self.sigma_mm = check_positive(sigma_mm, "smooth.sigma_mm")
        self.classes = check_names(classes, "smooth")

    def __call__(self, prediction: Prediction) -> Prediction:
        """Smooth the probabilities.

        Args:
            prediction: With probabilities.

        Returns:
            The prediction with other probabilities of the same shape and type.

        Raises:
            UsageError: There are no probabilities, or `classes` names one that the prediction does not have.
            DataError: The probabilities do not fit the classes, or hold nan.
        """
        sigmas = [self.sigma_mm / spacing for spacing in prediction.geometry.spacing_mm]
        return with_channels(
            prediction,
            self.classes,
            "smooth",
            lambda channel: ndimage.gaussian_filter(channel, sigmas, mode="nearest", truncate=4.0),
        )

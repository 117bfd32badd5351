"""Remove what lies outside the body."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import ndimage
from skimage.filters import threshold_otsu

from medexp.core.errors import DataError, UsageError
from medexp.core.types import SOFT, Kind, Prediction
from medexp.post_processing._components import find_components
from medexp.post_processing._knobs import check_count, check_names, check_volume, is_number
from medexp.post_processing._masks import pixels_of, with_channels, with_layers
from medexp.post_processing._neighbourhood import Neighbourhood

_AUTO = "auto"


class RemoveOutsideBody:
    """Remove what is predicted outside the body that the image shows.

    The body is the largest connected part (over faces) of the voxels with at least a threshold's intensity, with what
    it encloses in the volume or, as the lungs may be open to the outside, in a slice along any of the axes.

    Works on the mask where there is one, else on the probabilities, which become 0 outside; the background of exclusive
    classes gets what is left.

    Source: N. Otsu, A threshold selection method from gray-level histograms, IEEE Transactions on Systems, Man, and
    Cybernetics 9 (1979), for `threshold="auto"`.

    Args:
        threshold: Intensity from which on a voxel may belong to the body, in the unit of the image file (HU for a CT);
            "auto" finds what divides each image best in two.
        channel: Which channel of the image shows the body, from 0 on.
        margin_mm: What lies within this distance of the body stays, in mm; in pixels where `Geometry.unit` is "px".
        classes: Names of the classes to work on; None for all. The others stay as they are.

    Raises:
        UsageError: A knob has a value that is not listed.
    """

    takes = (*SOFT, Kind.MASK)
    gives = None

    def __init__(
        self,
        *,
        threshold: float | str = _AUTO,
        channel: int = 0,
        margin_mm: float = 0.0,
        classes: Sequence[str] | None = None,
    ) -> None:
        if threshold != _AUTO and not (is_number(threshold) and np.isfinite(threshold)):
            raise UsageError(f"remove_outside_body.threshold needs an intensity or auto, got {threshold!r}")
        self.threshold = threshold
        self.channel = check_count(channel, "remove_outside_body.channel", least=0)
        self.margin_mm = check_volume(margin_mm, "remove_outside_body.margin_mm")
        self.classes = check_names(classes, "remove_outside_body")

    def __call__(self, prediction: Prediction) -> Prediction:
        """Clean the mask or the probabilities.

        Args:
            prediction: With a mask or probabilities, and the pixels of its image.

        Returns:
            The prediction with another mask, or other probabilities, of the same shape and type.

        Raises:
            UsageError: `classes` names one that the prediction does not have.
            DataError: The image is not at hand or has no such channel, or the probabilities do not fit the classes.
        """
        outside = ~self._body(prediction)

        def cleaned(layer: Integer[np.ndarray, "*spatial"], values: Sequence[int]) -> Integer[np.ndarray, "*spatial"]:
            return np.where(outside & np.isin(layer, values), layer.dtype.type(0), layer)

        if prediction.mask is None:
            return with_channels(
                prediction, self.classes, "remove_outside_body", lambda channel: np.where(outside, 0, channel)
            )
        return with_layers(prediction, self.classes, "remove_outside_body", cleaned)

    def _body(self, prediction: Prediction) -> Bool[np.ndarray, "*spatial"]:
        pixels = pixels_of(prediction, "remove_outside_body")
        if self.channel >= len(pixels):
            raise DataError(
                f"remove_outside_body.channel={self.channel} needs that many channels, and the image of case "
                f"{prediction.case_id} has {len(pixels)} (0 is the first)"
            )
        body = body_of(pixels[self.channel], None if self.threshold == _AUTO else float(self.threshold))
        if not self.margin_mm:
            return body
        return Neighbourhood.within(self.margin_mm, prediction.geometry.spacing_mm).dilated(body)


def body_of(image: Float[np.ndarray, "*spatial"], threshold: float | None) -> Bool[np.ndarray, "*spatial"]:
    """The largest bright part of an image with what it encloses; all of an image of one intensity.

    Args:
        image: Intensities.
        threshold: Intensity from which on a voxel is bright; None finds it.

    Returns:
        The body as a mask.
    """
    if threshold is None:
        threshold = float(threshold_otsu(image)) if image.min() < image.max() else -np.inf
    parts = find_components((image >= threshold).view(np.uint8), "faces")
    sizes = np.where(parts.values == 1, parts.voxels, 0)
    largest = parts.numbers == np.argmax(sizes) if sizes.any() else np.zeros(image.shape, dtype=bool)
    body = ndimage.binary_fill_holes(largest)
    if image.ndim == 3:
        for axis in range(3):
            body |= _filled_slice_by_slice(largest, axis)
    return body


def _filled_slice_by_slice(mask: Bool[np.ndarray, "a b c"], axis: int) -> Bool[np.ndarray, "a b c"]:
    slices = [ndimage.binary_fill_holes(part) for part in np.moveaxis(mask, axis, 0)]
    return np.moveaxis(np.stack(slices), 0, axis)

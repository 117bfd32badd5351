"""Whether a case can be drawn, and between which intensities."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Image, Kind, Prediction
from medexp.engine._overlay_parts import has_places

_WINDOW_SAMPLES = 1_000_000


def check_case(image: Image, prediction: Prediction | None, reference: Prediction | None, *, channel: int) -> None:
    """Refuse what cannot be drawn.

    Args:
        image: The case.
        prediction: Its prediction, or None.
        reference: Its reference, or None.
        channel: The image channel that is shown.

    Raises:
        UsageError: The image has no such channel.
        DataError: There is nothing that can be drawn, or it is not on the image's grid.
    """
    channels, shape = image.pixels.shape[0], image.pixels.shape[1:]
    where = f"case {image.case.case_id}"
    if not 0 <= channel < channels:
        raise UsageError(f"channel needs a value from 0 to {channels - 1} for {where}, got {channel}")
    if len(shape) not in (2, 3):
        raise DataError(f"an overlay needs a 2D or 3D image, got shape {shape} in {where}")
    if prediction is None and reference is None:
        raise DataError(f"{where} has neither a prediction nor a reference to draw")
    for name, shown in (("prediction", prediction), ("reference", reference)):
        if shown is not None:
            _check_shown(shown, f"the {name} of {where}", shape)


def _check_shown(shown: Prediction, who: str, shape: tuple[int, ...]) -> None:
    if not has_places(shown) and shown.scores is None:
        raise DataError(
            f"{who} has no mask, instances, objects, density or scores to draw; end the post-processing chain with a "
            "step that makes one"
        )
    for layers in (shown.mask, shown.instances, shown.maps.get(Kind.DENSITY)):
        if layers is not None and layers.shape[-len(shape) :] != shape:
            raise DataError(f"{who} needs the image's shape {shape}, got {layers.shape[-len(shape) :]}")
    if shown.objects is not None and shown.objects.spatial_dims != len(shape):
        raise DataError(f"{who} needs objects of {len(shape)} dimensions, got {shown.objects.spatial_dims}")
    if shown.instances is not None and int(shown.instances.max(initial=0)) > len(shown.objects or ()):
        raise DataError(f"{who} needs an object for each instance, got {len(shown.objects or ())} objects")


def window_of(pixels: Float[np.ndarray, "*spatial"]) -> tuple[float, float]:
    """The intensities that are shown black and white: 1st and 99th percentile of the finite ones, from a sample."""
    flat = pixels.reshape(-1)
    sample = flat[:: max(1, flat.size // _WINDOW_SAMPLES)]
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(sample, (1, 99)))
    return (low, high) if high > low else (low - 0.5, low + 0.5)

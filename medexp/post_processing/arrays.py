"""Steps on arrays and tensors, outside of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped

from medexp.core.geometry import Geometry
from medexp.core.types import Kind, Prediction, StructureClass

Array = np.ndarray | torch.Tensor


def apply_to_mask(
    step: Callable[[Prediction], Prediction], mask: Array, *, spacing_mm: Sequence[float], regions: bool = False
) -> Array:
    """Apply a step, or a chain of them, to a mask.

    Args:
        step: Takes a mask and gives one.
        mask: Class values of shape (*spatial), 0 for background; with `regions` 0 or 1 of shape (regions, *spatial).
            Two or three spatial axes.
        spacing_mm: Distance between neighbouring voxels along each axis.
        regions: The channels are regions that may overlap.

    Returns:
        The new mask of the same shape and type: an array for an array, for a tensor a tensor on the same device.
        Classes are called "1", "2", ... after their value, regions after their channel from "0" on.
    """
    array = _as_array(mask)
    layers = array if regions else array[None]
    if regions:
        classes = tuple(StructureClass(str(layer), layer, 1) for layer in range(len(layers)))
    else:
        values = range(1, max(1, int(array.max(initial=0))) + 1)
        classes = tuple(StructureClass(str(value), 0, value) for value in values)
    changed = step(_prediction(classes, spacing_mm, layers.shape[1:], exclusive=not regions, mask=layers)).mask
    assert changed is not None
    return _like(changed if regions else changed[0], mask)


def apply_to_probabilities(
    step: Callable[[Prediction], Prediction],
    probabilities: Array,
    *,
    spacing_mm: Sequence[float],
    regions: bool = False,
    pixels: Array | None = None,
    gives: Kind = Kind.PROBABILITIES,
) -> Array:
    """Apply a step, or a chain of them, to probabilities.

    Args:
        step: Takes probabilities.
        probabilities: Of shape (channels, *spatial): background and classes, or one channel for each region.
        spacing_mm: Distance between neighbouring voxels along each axis.
        regions: The channels are regions that may overlap.
        pixels: Intensities of the image of shape (channels, *spatial), for steps that look at it.
        gives: What is wanted: the probabilities, or the mask that the step makes of them.

    Returns:
        Probabilities of the same shape and type, or a mask of shape (*spatial), with `regions` (regions, *spatial): an
        array for an array, for a tensor a tensor on the same device.
    """
    array = _as_array(probabilities)
    if regions:
        classes = tuple(StructureClass(str(layer), layer, 1) for layer in range(len(array)))
    else:
        classes = tuple(StructureClass(str(value), 0, value) for value in range(1, len(array)))
    prediction = step(
        _prediction(
            classes,
            spacing_mm,
            array.shape[1:],
            exclusive=not regions,
            probabilities=array,
            pixels=None if pixels is None else _as_array(pixels),
        )
    )
    if gives is Kind.PROBABILITIES:
        assert prediction.probabilities is not None
        return _like(prediction.probabilities, probabilities)
    assert prediction.mask is not None
    mask = prediction.mask if regions else prediction.mask[0]
    return mask if isinstance(probabilities, np.ndarray) else torch.from_numpy(mask).to(probabilities.device)


def _prediction(
    classes: tuple[StructureClass, ...],
    spacing_mm: Sequence[float],
    shape: tuple[int, ...],
    *,
    exclusive: bool,
    mask: Shaped[np.ndarray, "layers *spatial"] | None = None,
    probabilities: Float[np.ndarray, "channels *spatial"] | None = None,
    pixels: Float[np.ndarray, "image_channels *spatial"] | None = None,
) -> Prediction:
    geometry = Geometry.from_spacing(shape, tuple(spacing_mm))
    return Prediction(
        "array",
        "array",
        geometry,
        classes,
        exclusive=exclusive,
        mask=mask,
        probabilities=probabilities,
        pixels=pixels,
    )


def _as_array(array: Array) -> np.ndarray:
    return array if isinstance(array, np.ndarray) else array.detach().cpu().numpy()


def _like(array: np.ndarray, given: Array) -> Array:
    return array if isinstance(given, np.ndarray) else torch.from_numpy(array).to(given.device)

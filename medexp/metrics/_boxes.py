"""Boxes and places of objects, compared."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from medexp.core.errors import DataError
from medexp.core.objects import Objects
from medexp.core.types import Prediction


def objects_of(prediction: Prediction, reference: Prediction) -> tuple[Objects, Objects]:
    """The objects of both, checked to be of one case and of the same classes.

    Args:
        prediction: What is measured.
        reference: What it is measured by.

    Returns:
        Objects of the prediction and of the reference.

    Raises:
        DataError: They are of different cases or classes, or have no objects.
    """
    where = f"case {reference.case_id}"
    if prediction.case_id != reference.case_id:
        raise DataError(f"{where} was given the prediction of case {prediction.case_id}; pair them by case_id")
    if prediction.classes != reference.classes:
        names = [[structure.name for structure in each.classes] for each in (prediction, reference)]
        raise DataError(
            f"{where}: prediction and reference need the same classes, got {names[0]} and {names[1]}; decode both by "
            "one task"
        )
    for whose, each in (("prediction", prediction), ("reference", reference)):
        if each.objects is None:
            raise DataError(
                f"{where}: the {whose} has no objects; end the post-processing chain with a step that makes them"
            )
    assert prediction.objects is not None
    assert reference.objects is not None
    return prediction.objects, reference.objects


def box_iou(first: Float[np.ndarray, "n corners"], second: Float[np.ndarray, "m corners"]) -> np.ndarray:
    """Intersection over union of all pairs of boxes in any number of dimensions.

    Args:
        first: Lower ends along all axes, then upper ends.
        second: The same.

    Returns:
        An array of shape (n, m); 0 where two boxes have no volume.
    """
    dims = first.shape[1] // 2
    low = np.maximum(first[:, None, :dims], second[None, :, :dims])
    high = np.minimum(first[:, None, dims:], second[None, :, dims:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    volumes = [np.prod(boxes[:, dims:] - boxes[:, :dims], axis=1) for boxes in (first, second)]
    either = volumes[0][:, None] + volumes[1][None, :] - shared
    return np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)

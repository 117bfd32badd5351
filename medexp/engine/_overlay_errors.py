"""Where a prediction differs from its reference."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from jaxtyping import Bool, UInt8

from medexp.core.types import Prediction
from medexp.engine._overlay_planes import Plane


class ErrorKind(IntEnum):
    """How a voxel is wrong; 0 stands for one that is right, or that nobody annotated."""

    FALSE_POSITIVE = 1
    FALSE_NEGATIVE = 2
    OTHER_CLASS = 3

    @property
    def words(self) -> str:
        """As a legend has it."""
        return self.name.replace("_", " ").lower()


# Three of Okabe and Ito's colours, chosen to be far apart for colour-blind readers too.
ERROR_COLOURS = {
    ErrorKind.FALSE_POSITIVE: "#D55E00",
    ErrorKind.FALSE_NEGATIVE: "#56B4E9",
    ErrorKind.OTHER_CLASS: "#F0E442",
}


def has_areas(shown: Prediction | None) -> bool:
    """Whether a prediction says of each voxel what it is."""
    return shown is not None and (shown.mask is not None or shown.instances is not None)


def error_kinds(
    prediction: Prediction, reference: Prediction, plane: Plane | None = None
) -> UInt8[np.ndarray, "*shown"]:
    """How each voxel is wrong, class by class.

    A voxel that is predicted to be of a class that it is not of is a false positive, one that is of a class which is
    not predicted there a false negative, and one that is both has another class than predicted. Instances count as
    what their classes cover.

    Args:
        prediction: With a mask or instances.
        reference: The same on the same grid.
        plane: A plane of both; None for the whole grid.

    Returns:
        Values of `ErrorKind`, 0 elsewhere.
    """
    names = dict.fromkeys(structure.name for shown in (reference, prediction) for structure in shown.classes)
    shape = reference.geometry.shape if plane is None else plane.pixels(reference.geometry)
    extra, missed = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for name in names:
        predicted, known = _inside(prediction, name, plane), _inside(reference, name, plane)
        extra |= predicted & ~known
        missed |= known & ~predicted
    kinds = extra * np.uint8(ErrorKind.FALSE_POSITIVE) + missed * np.uint8(ErrorKind.FALSE_NEGATIVE)
    if reference.valid is not None:
        kinds[~(reference.valid if plane is None else plane.cut(reference.valid, lead=0))] = 0
    return kinds


def _inside(shown: Prediction, name: str, plane: Plane | None) -> Bool[np.ndarray, "*shown"]:
    """Where a class is; nowhere for an unknown one."""
    structures = [structure for structure in shown.classes if structure.name == name]
    if shown.instances is not None:
        assert shown.objects is not None
        cut = shown.instances if plane is None else plane.cut(shown.instances, lead=0)
        belongs = np.isin(shown.objects.labels, [structure.value for structure in structures])
        found: np.ndarray = np.concatenate([[False], belongs])[cut]
        return found
    assert shown.mask is not None
    layers = shown.mask if plane is None else plane.cut(shown.mask, lead=1)
    inside = np.zeros(layers.shape[1:], dtype=bool)
    for structure in structures:
        inside |= layers[structure.layer] == structure.value
    return inside

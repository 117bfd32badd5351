"""Where a prediction differs from its reference."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from medexp.core.overlaps import overlaps
from medexp.core.types import Prediction
from medexp.engine._overlay_planes import Plane

_MATCHING_IOU = 0.5


class ErrorKind(IntEnum):
    """How a voxel is wrong, or what became of its object; 0 stands for all else, and where nobody annotated."""

    FALSE_POSITIVE = 1
    FALSE_NEGATIVE = 2
    OTHER_CLASS = 3
    MATCHED = 4
    FALSE_OBJECT = 5
    MISSED_OBJECT = 6
    FALSE_AND_MISSED = 7

    @property
    def words(self) -> str:
        """As a legend has it."""
        return self.name.replace("_", " ").lower()


# Of Okabe and Ito's colours, chosen to be far apart for colour-blind readers too.
ERROR_COLOURS = {
    ErrorKind.FALSE_POSITIVE: "#D55E00",
    ErrorKind.FALSE_NEGATIVE: "#56B4E9",
    ErrorKind.OTHER_CLASS: "#F0E442",
    ErrorKind.MATCHED: "#009E73",
    ErrorKind.FALSE_OBJECT: "#D55E00",
    ErrorKind.MISSED_OBJECT: "#56B4E9",
    ErrorKind.FALSE_AND_MISSED: "#F0E442",
}
_OF_VOXELS = (ErrorKind.FALSE_POSITIVE, ErrorKind.FALSE_NEGATIVE, ErrorKind.OTHER_CLASS)
_OF_OBJECTS = (ErrorKind.MATCHED, ErrorKind.FALSE_OBJECT, ErrorKind.MISSED_OBJECT, ErrorKind.FALSE_AND_MISSED)


def has_areas(shown: Prediction | None) -> bool:
    """Whether a prediction says of each voxel what it is."""
    return shown is not None and (shown.mask is not None or shown.instances is not None)


def kinds_between(prediction: Prediction, reference: Prediction) -> tuple[ErrorKind, ...]:
    """Which kinds `error_kinds` can give of these two: those of objects where both have instances."""
    return _OF_OBJECTS if prediction.instances is not None and reference.instances is not None else _OF_VOXELS


def error_kinds(
    prediction: Prediction, reference: Prediction, plane: Plane | None = None
) -> UInt8[np.ndarray, "*shown"]:
    """How each voxel is wrong, class by class.

    A voxel that is predicted to be of a class that it is not of is a false positive, one that is of a class which is
    not predicted there a false negative, and one that is both has another class than predicted. Of two with instances
    it tells what became of the objects instead: those of one class whose IoU is above .5 match (as for panoptic
    quality), any other is a false or a missed one, and a voxel may lie in both.

    Args:
        prediction: With a mask or instances.
        reference: The same on the same grid.
        plane: A plane of both; None for the whole grid.

    Returns:
        Values of `ErrorKind`, 0 elsewhere.
    """
    if kinds_between(prediction, reference) is _OF_OBJECTS:
        kinds = _object_kinds(prediction, reference, plane)
    else:
        kinds = _voxel_kinds(prediction, reference, plane)
    if reference.valid is not None:
        kinds[~(reference.valid if plane is None else plane.cut(reference.valid, lead=0))] = 0
    return kinds


def _voxel_kinds(prediction: Prediction, reference: Prediction, plane: Plane | None) -> UInt8[np.ndarray, "*shown"]:
    names = dict.fromkeys(structure.name for shown in (reference, prediction) for structure in shown.classes)
    shape = reference.geometry.shape if plane is None else plane.pixels(reference.geometry)
    extra, missed = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for name in names:
        predicted, known = _inside(prediction, name, plane), _inside(reference, name, plane)
        extra |= predicted & ~known
        missed |= known & ~predicted
    kinds: np.ndarray = extra * np.uint8(ErrorKind.FALSE_POSITIVE) + missed * np.uint8(ErrorKind.FALSE_NEGATIVE)
    return kinds


def _object_kinds(prediction: Prediction, reference: Prediction, plane: Plane | None) -> UInt8[np.ndarray, "*shown"]:
    (found, objects), (known, wanted) = (_objects_of(shown) for shown in (prediction, reference))
    valid = np.ones(known.shape, dtype=bool) if reference.valid is None else reference.valid
    pairs = overlaps(np.where(valid, found, 0), np.where(valid, known, 0))
    match = (objects[pairs.first - 1] == wanted[pairs.second - 1]) & (pairs.iou > _MATCHING_IOU)
    of_found = np.full(len(objects) + 1, ErrorKind.FALSE_OBJECT, dtype=np.uint8)
    of_known = np.full(len(wanted) + 1, ErrorKind.MISSED_OBJECT, dtype=np.uint8)
    of_found[pairs.first[match]] = of_known[pairs.second[match]] = ErrorKind.MATCHED
    of_found[0] = of_known[0] = 0
    extra, missed = (
        kinds[numbers if plane is None else plane.cut(numbers, lead=0)]
        for kinds, numbers in ((of_found, found), (of_known, known))
    )
    both = (extra == ErrorKind.FALSE_OBJECT) & (missed == ErrorKind.MISSED_OBJECT)
    # What is wrong lies over what matches.
    kinds: np.ndarray = np.maximum(extra, missed)
    kinds[both] = ErrorKind.FALSE_AND_MISSED
    return kinds


def _objects_of(shown: Prediction) -> tuple[Integer[np.ndarray, "*spatial"], np.ndarray]:
    """Instances, and the name of the class of each."""
    assert shown.instances is not None
    assert shown.objects is not None
    names = {structure.value: structure.name for structure in shown.classes}
    return shown.instances, np.array([names.get(value, "") for value in shown.objects.labels.tolist()], dtype=object)


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

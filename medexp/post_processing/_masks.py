"""What steps that make or change masks have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Integer

from medexp.core.errors import DataError, UsageError, did_you_mean
from medexp.core.types import Prediction, StructureClass


def probabilities_of(prediction: Prediction, channels: int, step: str) -> Float[np.ndarray, "channels *spatial"]:
    """The probabilities of a prediction, checked.

    Args:
        prediction: What a task decoded.
        channels: Number of channels that the step needs.
        step: Name of the step, for the error.

    Returns:
        The probabilities, not a copy.

    Raises:
        UsageError: There are no probabilities.
        DataError: They have another number of channels, or hold nan.
    """
    where, soft = f"{step} in case {prediction.case_id}", prediction.probabilities
    if soft is None:
        raise UsageError(f"{where} takes probabilities, and the prediction has none; put the step first in the chain")
    if soft.shape[0] != channels:
        names = [structure.name for structure in prediction.classes]
        raise DataError(
            f"{where} needs {channels} channels for classes {names}, got {soft.shape[0]}; check the task's heads"
        )
    if np.isnan(soft.max()):
        raise DataError(f"{where}: the probabilities hold nan; the model has diverged, see the loss in history.csv")
    return soft


def mask_of(prediction: Prediction, step: str) -> Integer[np.ndarray, "layers *spatial"]:
    """The mask of a prediction, checked.

    Args:
        prediction: What an earlier step gave.
        step: Name of the step, for the error.

    Returns:
        The mask, not a copy.

    Raises:
        UsageError: There is none.
    """
    if prediction.mask is None:
        raise UsageError(
            f"{step} takes a mask, and case {prediction.case_id} has none; put argmax or threshold before it"
        )
    return prediction.mask


def map_of(
    prediction: Prediction, name: str, channels: int | None, step: str, remedy: str
) -> Float[np.ndarray, "_ *spatial"]:
    """A soft map of a prediction, checked.

    Args:
        prediction: What a task decoded.
        name: Name of the map.
        channels: Number of channels that the step needs; None for any.
        step: Name of the step, for the error.
        remedy: What to do where it is absent.

    Returns:
        The map, not a copy.

    Raises:
        DataError: There is none with so many channels, or it holds nan.
    """
    where, found = f"{step} in case {prediction.case_id}", prediction.maps.get(name)
    if found is None or channels not in (None, len(found)):
        wanted = "" if channels is None else f" of {channels} channel{'s' if channels > 1 else ''}"
        got = "none" if found is None else f"{len(found)} channels"
        raise DataError(f"{where} takes a map {name!r}{wanted}, got {got}; {remedy}")
    if np.isnan(found.max()):
        raise DataError(f"{where}: the map {name!r} holds nan; the model has diverged, see the loss in history.csv")
    return found


def empty_mask(classes: Sequence[StructureClass], spatial: tuple[int, ...]) -> Integer[np.ndarray, "layers *spatial"]:
    """Background in as many layers as the classes need, in the smallest type that holds their values."""
    layers = 1 + max(structure.layer for structure in classes)
    return np.zeros((layers, *spatial), dtype=np.min_scalar_type(max(structure.value for structure in classes)))


def chosen_classes(prediction: Prediction, names: Sequence[str] | None, step: str) -> list[int]:
    """Places of the classes to work on among the prediction's.

    Args:
        prediction: What says which classes there are.
        names: Names of the classes to work on, or None for all.
        step: Name of the step, for the error.

    Returns:
        The places, in the order of the names.

    Raises:
        UsageError: A name is not among the prediction's classes.
    """
    known = {structure.name: place for place, structure in enumerate(prediction.classes)}
    for name in names or ():
        if name not in known:
            raise UsageError(
                f"{step}.classes names {name!r}, and the task has {', '.join(known)}{did_you_mean(name, known)}"
            )
    return [known[name] for name in known] if names is None else [known[name] for name in dict.fromkeys(names)]


def values_by_layer(prediction: Prediction, names: Sequence[str] | None, step: str) -> dict[int, list[int]]:
    """The values to work on, by layer.

    Args:
        prediction: What says where each class stands.
        names: Names of the classes to work on, or None for all.
        step: Name of the step, for the error.

    Returns:
        For each layer that holds one of the classes, the values of those classes.

    Raises:
        UsageError: A name is not among the prediction's classes.
    """
    found: dict[int, list[int]] = {}
    for place in chosen_classes(prediction, names, step):
        structure = prediction.classes[place]
        found.setdefault(structure.layer, []).append(structure.value)
    return found


def with_layers(
    prediction: Prediction,
    names: Sequence[str] | None,
    step: str,
    change: Callable[[Integer[np.ndarray, "*spatial"], list[int]], Integer[np.ndarray, "*spatial"]],
) -> Prediction:
    """The prediction with each layer changed that holds one of the classes.

    Args:
        prediction: What an earlier step gave, with a mask.
        names: Names of the classes to work on, or None for all.
        step: Name of the step, for errors.
        change: Gets a layer, which it must not write to, and the values to work on; returns the new layer.

    Returns:
        The prediction with another mask of the same shape and type.

    Raises:
        UsageError: There is no mask, or a name is not among the prediction's classes.
    """
    mask = mask_of(prediction, step).copy()
    for layer, values in values_by_layer(prediction, names, step).items():
        mask[layer] = change(mask[layer], values)
    return prediction.with_mask(mask)


def with_channels(
    prediction: Prediction,
    names: Sequence[str] | None,
    step: str,
    change: Callable[[Float[np.ndarray, "*spatial"]], Float[np.ndarray, "*spatial"]],
) -> Prediction:
    """The prediction with the probabilities of some classes changed.

    Exclusive classes have to sum to one with the background: where the classes alone exceed it they are divided by
    their sum, and the background gets what is left.

    Args:
        prediction: What a task decoded.
        names: Names of the classes to work on, or None for all.
        step: Name of the step, for errors.
        change: Gets the probabilities of a class, which it must not write to; returns the new ones.

    Returns:
        The prediction with other probabilities of the same shape and type.

    Raises:
        UsageError: There are no probabilities, or a name is not among the prediction's classes.
        DataError: The probabilities do not fit the classes, or hold nan.
    """
    first = 1 if prediction.exclusive else 0
    soft = probabilities_of(prediction, first + len(prediction.classes), step).copy()
    for place in chosen_classes(prediction, names, step):
        soft[first + place] = change(soft[first + place])
    return replace(prediction, probabilities=_summing_to_one(soft) if prediction.exclusive else soft)


def soft_regions(prediction: Prediction, step: str) -> Float[np.ndarray, "regions *spatial"]:
    """The probabilities of classes that a threshold can mark one by one: overlapping regions, or a single class.

    Args:
        prediction: What a task decoded.
        step: Name of the step, for the error.

    Returns:
        A channel for each class, not a copy.

    Raises:
        UsageError: There are several exclusive classes, or no probabilities.
        DataError: The probabilities do not fit the classes, or hold nan.
    """
    classes = prediction.classes
    if prediction.exclusive and len(classes) > 1:
        raise UsageError(
            f"{step} in case {prediction.case_id} needs overlapping regions or a single class, got exclusive "
            f"classes {', '.join(structure.name for structure in classes)}; use argmax instead"
        )
    background = 1 if prediction.exclusive else 0
    return probabilities_of(prediction, background + len(classes), step)[background:]


def pixels_of(prediction: Prediction, step: str) -> Float[np.ndarray, "channels *spatial"]:
    """The intensities of the image that a prediction is of.

    Args:
        prediction: What a task decoded.
        step: Name of the step, for the error.

    Returns:
        The intensities, not a copy.

    Raises:
        DataError: They are not at hand.
    """
    if prediction.pixels is None:
        raise DataError(
            f"{step} in case {prediction.case_id} looks at the image, and the prediction comes without one; give its "
            "pixels"
        )
    return prediction.pixels


def _summing_to_one(soft: Float[np.ndarray, "channels *spatial"]) -> Float[np.ndarray, "channels *spatial"]:
    """Write into probabilities whose first channel is the background; the same array."""
    total = soft[1:].sum(axis=0)
    soft[1:] /= np.maximum(total, 1)
    soft[0] = np.clip(1 - total, 0, 1)
    return soft

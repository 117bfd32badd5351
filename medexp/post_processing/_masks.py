"""What steps that make or change masks have in common."""

from __future__ import annotations

from collections.abc import Sequence

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


def empty_mask(classes: Sequence[StructureClass], spatial: tuple[int, ...]) -> Integer[np.ndarray, "layers *spatial"]:
    """Background in as many layers as the classes need, in the smallest type that holds their values."""
    layers = 1 + max(structure.layer for structure in classes)
    return np.zeros((layers, *spatial), dtype=np.min_scalar_type(max(structure.value for structure in classes)))


def check_names(names: Sequence[str] | None, step: str) -> tuple[str, ...] | None:
    """The names of classes that a step is told to work on, checked.

    Args:
        names: The names, or None for all classes.
        step: Name of the step, for the error.

    Returns:
        The names as a tuple, or None.

    Raises:
        UsageError: They are one word instead of a list, or an empty list.
    """
    if isinstance(names, str) or (names is not None and not names):
        raise UsageError(f"{step}.classes needs a list of names, or null for all classes, got {names!r}")
    return None if names is None else tuple(names)


def values_by_layer(prediction: Prediction, names: tuple[str, ...] | None, step: str) -> dict[int, list[int]]:
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
    known = {structure.name: structure for structure in prediction.classes}
    found: dict[int, list[int]] = {}
    for name in known if names is None else names:
        if name not in known:
            raise UsageError(
                f"{step}.classes names {name!r}, and the task has {', '.join(known)}{did_you_mean(name, known)}"
            )
        found.setdefault(known[name].layer, []).append(known[name].value)
    return found

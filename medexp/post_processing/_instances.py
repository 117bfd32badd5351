"""What steps that make instances have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Integer

from medexp.core.errors import UsageError
from medexp.core.objects import Objects
from medexp.core.types import Prediction
from medexp.post_processing._masks import empty_mask, probabilities_of


def check_exclusive(prediction: Prediction, step: str) -> None:
    """Check that no voxel can belong to two objects.

    Args:
        prediction: What a task decoded.
        step: Name of the step, for the error.

    Raises:
        UsageError: The classes overlap.
    """
    if not prediction.exclusive:
        raise UsageError(
            f"{step} in case {prediction.case_id} needs exclusive classes, and the task's regions overlap; instances "
            "have one layer"
        )


def foreground_of(prediction: Prediction, threshold: float, step: str) -> Bool[np.ndarray, "*spatial"]:
    """The voxels that belong to an object: those whose classes together are at least as likely as a threshold.

    Args:
        prediction: What a task decoded, with exclusive classes.
        threshold: The least probability.
        step: Name of the step, for errors.

    Returns:
        The foreground.

    Raises:
        UsageError: The classes overlap, or there are no probabilities.
        DataError: The probabilities do not fit the classes, or hold nan.
    """
    check_exclusive(prediction, step)
    soft = probabilities_of(prediction, 1 + len(prediction.classes), step)
    return np.asarray(soft[1:].sum(axis=0) >= threshold)


def with_instances(
    prediction: Prediction, numbers: Integer[np.ndarray, "*spatial"], values: Mapping[int, int], step: str
) -> Prediction:
    """The prediction with some objects as its instances; the mask shows the same objects.

    Args:
        prediction: What the objects were made from.
        numbers: Number of the object of each voxel; numbers that are no key of `values` become background.
        values: Class value of each object by its number.
        step: Name of the step, for errors.

    Returns:
        The prediction with instances numbered from 1 in the order of `values`, their boxes, and a mask of one layer.
        The score of an object is the mean probability of its class inside it; 1 where there are no probabilities.
    """
    new = np.zeros(max([int(numbers.max(initial=0)), *values]) + 1, dtype=np.int32)
    new[list(values)] = np.arange(1, len(values) + 1)
    instances = new[numbers]
    labels = dict(enumerate(values.values(), start=1))
    objects = Objects.of_instances(instances, labels) if labels else Objects.none(instances.ndim)
    mask = empty_mask(prediction.classes, instances.shape)
    mask[0] = np.array([0, *labels.values()])[instances]
    if prediction.probabilities is not None:
        soft = probabilities_of(prediction, 1 + len(prediction.classes), step)
        channel = {structure.value: place for place, structure in enumerate(prediction.classes, start=1)}
        means = mean_inside(soft, instances)
        scores = np.array([means[channel[value], identity] for identity, value in labels.items()])
        objects = replace(objects, scores=scores)
    return replace(prediction, mask=mask, instances=instances, objects=objects)


def mean_inside(
    soft: Float[np.ndarray, "channels *spatial"], numbers: Integer[np.ndarray, "*spatial"]
) -> Float[np.ndarray, "channels numbers"]:
    """Mean of each channel over the voxels of each number, from 0 to the largest; 0 for a number without voxels."""
    numbers = numbers.ravel()
    voxels = np.bincount(numbers)
    return np.stack([np.bincount(numbers, channel.ravel()) / np.maximum(voxels, 1) for channel in soft])


def likely_values(prediction: Prediction, numbers: Integer[np.ndarray, "*spatial"], min_voxels: int) -> dict[int, int]:
    """The class value of each object that is large enough, by its number: the class with the highest mean inside it.

    Args:
        prediction: With probabilities of background and classes.
        numbers: Number of the object of each voxel, 0 where there is none.
        min_voxels: Smallest object that stays.

    Returns:
        Class value by number, in rising order of the numbers.
    """
    assert prediction.probabilities is not None
    means = mean_inside(prediction.probabilities[1:], numbers)
    voxels = np.bincount(numbers.ravel())
    kept = [int(number) for number in np.flatnonzero(voxels >= max(min_voxels, 1)) if number > 0]
    return {number: prediction.classes[int(np.argmax(means[:, number]))].value for number in kept}

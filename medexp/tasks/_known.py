"""What is known of the objects of an image, in the form in which predictions are compared with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Integer

from medexp.core.errors import DataError, UsageError
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Batch, Image, Prediction, StructureClass


def classes_of(labels: Mapping[int, str]) -> tuple[list[int], tuple[StructureClass, ...]]:
    """The label ids of objects in rising order, and their classes with values from 1 on.

    Args:
        labels: Name of each label id of the dataset; 0 is the background.

    Returns:
        The ids, and a class for each of them.

    Raises:
        UsageError: There is nothing beside the background.
    """
    ids = sorted(label for label in labels if label != 0)
    if not ids:
        raise UsageError("the dataset declares no label beside the background; nothing can be found")
    return ids, tuple(StructureClass(labels[label], 0, value) for value, label in enumerate(ids, start=1))


def objects_of_classes(annotation: Annotation, ids: Sequence[int]) -> Objects:
    """The objects of an annotation with values of the classes in place of label ids.

    Args:
        annotation: What is known of an image.
        ids: Label ids of the classes in rising order; the class of the first has value 1.

    Returns:
        The objects.

    Raises:
        DataError: There are no objects, or one has a label that is unknown.
    """
    if annotation.objects is None:
        raise DataError("the task needs objects, and the dataset gives none; choose another task or dataset")
    found = annotation.objects
    _check_known(found, ids)
    return replace(found, labels=np.searchsorted(ids, found.labels) + 1)


def instances_of(annotation: Annotation) -> tuple[Integer[np.ndarray, "*spatial"], Objects]:
    """The instances of an annotation; DataError where the dataset gives none."""
    if annotation.instances is None or annotation.objects is None:
        raise DataError("the task needs instances, and the dataset gives none; choose another task or dataset")
    return annotation.instances, annotation.objects


def instances_of_classes(
    annotation: Annotation, ids: Sequence[int], *, ignored: int | None = None
) -> tuple[Integer[np.ndarray, "*spatial"], Objects]:
    """The instances whose label is a class, numbered from 1, and their objects with values of the classes.

    Args:
        annotation: With instances.
        ids: Label ids of the classes in rising order; the class of the first has value 1.
        ignored: Label id of what nobody annotated; objects with it are no objects.

    Returns:
        The instances, and their objects.

    Raises:
        DataError: There are no instances, or one has a label that is unknown.
    """
    instances, objects = instances_of(annotation)
    kept = objects.labels != ignored
    number = np.zeros(len(objects) + 1, dtype=np.int32)
    number[1:][kept] = np.arange(1, kept.sum() + 1)
    return number[instances], objects_of_classes(replace(annotation, objects=objects.select(kept)), ids)


def reference_objects(batch: Batch, ids: Sequence[int], classes: tuple[StructureClass, ...]) -> list[Prediction]:
    """The objects of the annotations of a batch, in the form of predictions; DataError where there is none."""
    return [
        prediction_of(image, classes, objects=objects_of_classes(annotation, ids))
        for image, annotation in annotated(batch)
    ]


def annotated(batch: Batch) -> list[tuple[Image, Annotation]]:
    """The images of a batch and what is known of them; DataError where nothing is."""
    pairs = []
    for image in batch.images_read:
        if image.annotation is None:
            raise DataError(f"case {image.case.case_id} has no reference; it cannot be evaluated")
        pairs.append((image, image.annotation))
    return pairs


def prediction_of(image: Image, classes: tuple[StructureClass, ...], **content: Any) -> Prediction:
    """A prediction of an image."""
    return Prediction(
        case_id=image.case.case_id,
        group=image.case.group,
        geometry=image.geometry,
        classes=classes,
        pixels=image.pixels,
        **content,
    )


def _check_known(objects: Objects, ids: Sequence[int]) -> None:
    unknown = set(objects.labels.tolist()) - set(ids)
    if unknown:
        raise DataError(f"objects have the labels {sorted(unknown)}, which the dataset does not declare ({list(ids)})")

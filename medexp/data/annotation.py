"""Annotations on other grids than the image's own: the network's, and that of a patch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor

from medexp.core.geometry import Placement
from medexp.core.objects import Objects
from medexp.core.resample import resize_nearest
from medexp.core.types import Annotation

ResizeLabels = Callable[[Tensor, tuple[int, ...]], Tensor]


def place_annotation(
    annotation: Annotation, placement: Placement, *, resize_mask: ResizeLabels = resize_nearest
) -> Annotation:
    """An annotation on the network's grid.

    An instance that falls between its voxels is left out, and of what was cropped away the objects whose centre lies
    there.

    Args:
        annotation: What is known on the image's own grid.
        placement: How the network's grid lies on it.
        resize_mask: Brings a mask of labels (1, *spatial) to another shape; instances keep the nearest voxel's id.

    Returns:
        What is known on the network's grid.
    """
    mask, instances = (
        None if layer is None else _resized(placement.orient(layer), placement.resized_shape, resize)
        for layer, resize in ((annotation.mask, resize_mask), (annotation.instances, resize_nearest))
    )
    objects = annotation.objects
    if instances is not None and objects is not None:
        instances, objects = renumbered(instances, objects)
    elif objects is not None:
        objects = objects.moved(*placement.to_network())
        objects = objects.clipped(placement.resized_shape)[0] if placement.is_cropped else objects
    return replace(annotation, mask=mask, instances=instances, objects=objects)


def renumbered(
    instances: Integer[np.ndarray, "*spatial"], objects: Objects
) -> tuple[Integer[np.ndarray, "*spatial"], Objects]:
    """Instances that are left on a grid, numbered from 1 on without gaps, with their boxes on this grid.

    Args:
        instances: Ids that are rows of `objects`, some of which may be gone.
        objects: What says the label of each id.

    Returns:
        The instances and their objects.
    """
    left = np.unique(instances)
    left = left[left > 0]
    number = np.zeros(len(objects) + 1, dtype=instances.dtype)
    number[left] = np.arange(1, len(left) + 1)
    labels = {new: int(objects.labels[old - 1]) for new, old in enumerate(left, start=1)}
    instances = number[instances]
    return instances, Objects.of_instances(instances, labels)


def _resized(
    labels: Integer[np.ndarray, "*image"], shape: tuple[int, ...], resize: ResizeLabels
) -> Integer[np.ndarray, "*network"]:
    return resize(torch.from_numpy(writable(labels))[None], shape)[0].numpy()


def writable(array: np.ndarray) -> np.ndarray:
    """A contiguous array that torch may wrap."""
    return np.ascontiguousarray(array) if array.flags.writeable else array.copy()

"""A mask of classes from instances, or a weak one from boxes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Integer

from medexp.core.objects import Objects
from medexp.core.types import Annotation, Image
from medexp.data.derive.derived import needed


class ObjectMask:
    """Each voxel gets the label of the object that holds it: of its instance, else of the smallest box around it.

    A box is a weak mask: it holds voxels beside its object, too.
    """

    def labels(self, labels: Mapping[int, str]) -> Mapping[int, str]:
        """The same labels."""
        return labels

    def __call__(self, image: Image, labels: Mapping[int, str]) -> Annotation:
        """The annotation with a mask; DataError where there are no objects."""
        known = image.annotation
        if known is None or known.objects is None:
            raise needed(image, "instances or boxes", "object_mask")
        if known.instances is not None:
            of_instance = np.concatenate([[0], known.objects.labels]).astype(np.int32)
            mask = of_instance[known.instances]
        else:
            mask = _boxes(known.objects, image.geometry.shape)
        return Annotation(mask=mask, instances=known.instances, objects=known.objects, image_labels=known.image_labels)


def _boxes(objects: Objects, shape: tuple[int, ...]) -> Integer[np.ndarray, "*spatial"]:
    """The voxels whose centre lies in a box, smaller boxes over larger ones."""
    mask = np.zeros(shape, dtype=np.int32)
    sizes = np.prod(objects.high - objects.low, axis=1)
    for row in np.argsort(-sizes, kind="stable"):
        low = np.clip(np.ceil(objects.low[row] - 0.5), 0, shape).astype(int)
        high = np.clip(np.ceil(objects.high[row] - 0.5), 0, shape).astype(int)
        mask[tuple(map(slice, low, high))] = objects.labels[row]
    return mask

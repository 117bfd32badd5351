"""Grow instances into the background."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from skimage.segmentation import expand_labels

from medexp.core.errors import UsageError
from medexp.core.objects import Objects
from medexp.core.types import Kind, Prediction
from medexp.post_processing._masks import empty_mask


class GrowInstances:
    """Let each instance grow into the background, as far as no other instance lies nearer.

    It gives back the border of objects whose inside alone was learned (`task.border_px`). Classes and scores stay.

    Args:
        radius_mm: Background whose voxel centre lies within this distance of a voxel centre of the object becomes part
            of it, in mm; in pixels where `Geometry.unit` is "px".

    Raises:
        UsageError: The radius is negative or not finite.
    """

    takes = Kind.INSTANCES
    gives = Kind.INSTANCES

    def __init__(self, *, radius_mm: float = 1.0) -> None:
        if not 0 <= radius_mm < math.inf:
            raise UsageError(f"grow_instances.radius_mm needs a value of 0 or more, got {radius_mm}")
        self.radius_mm = radius_mm

    def __call__(self, prediction: Prediction) -> Prediction:
        """Grow the instances.

        Args:
            prediction: What an earlier step gave, with instances.

        Returns:
            The prediction with larger instances, their boxes, and a mask that shows them.

        Raises:
            UsageError: There are no instances.
        """
        instances, objects = prediction.instances, prediction.objects
        if instances is None or objects is None:
            raise UsageError(
                f"grow_instances in case {prediction.case_id} needs instances; put a step before it that makes them"
            )
        radius_mm = self.radius_mm * (1 + 1e-6)  # spacings come from headers in single precision
        grown = expand_labels(instances, radius_mm, spacing=prediction.geometry.spacing_mm)
        labels = objects.labels
        boxes = Objects.of_instances(grown, dict(enumerate(labels.tolist(), start=1))).boxes
        mask = empty_mask(prediction.classes, grown.shape)
        mask[0] = np.concatenate([[0], labels])[grown]
        return replace(prediction, mask=mask, instances=grown, objects=replace(objects, boxes=boxes))

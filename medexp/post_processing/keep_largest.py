"""Keep the largest connected components."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Integer

from medexp.core.types import Kind, Prediction
from medexp.post_processing._components import Components, find_components, without, without_joint
from medexp.post_processing._knobs import check_connectivity, check_count, check_flag, check_names
from medexp.post_processing._masks import with_layers


class KeepLargest:
    """Keep the largest connected components of each class, or of several classes together; the others are background.

    Of components of equal size those stay whose first voxel comes first in the array.

    Args:
        connectivity: "faces", neighbours share a face (4 in 2D, 6 in 3D), or "corners", they may share a corner only (8
            in 2D, 26 in 3D).
        count: How many components stay.
        joint: False works on each class by itself; true takes voxels of any of the classes, in whichever layer, as one
            foreground, so that touching classes are one component.
        classes: Names of the classes to work on; None for all. The others stay as they are.

    Raises:
        UsageError: A knob has a value that is not listed.
    """

    takes = Kind.MASK
    gives = Kind.MASK

    def __init__(
        self,
        *,
        connectivity: str = "corners",
        count: int = 1,
        joint: bool = False,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.connectivity = check_connectivity(connectivity, "keep_largest")
        self.count = check_count(count, "keep_largest.count")
        self.joint = check_flag(joint, "keep_largest.joint")
        self.classes = check_names(classes, "keep_largest")

    def __call__(self, prediction: Prediction) -> Prediction:
        """Clean the mask.

        Args:
            prediction: What an earlier step gave, with a mask.

        Returns:
            The prediction with another mask of the same shape and type.

        Raises:
            UsageError: There is no mask, or `classes` names one that the prediction does not have.
        """
        if self.joint:
            return without_joint(prediction, self.classes, self.connectivity, self._dropped, step="keep_largest")
        return with_layers(prediction, self.classes, "keep_largest", self._of_each)

    def _of_each(self, layer: Integer[np.ndarray, "*spatial"], values: list[int]) -> Integer[np.ndarray, "*spatial"]:
        components = find_components(layer, self.connectivity)
        return without(layer, components, self._dropped(components, values))

    def _dropped(self, components: Components, values: list[int]) -> Bool[np.ndarray, "components"]:
        dropped = np.isin(components.values, values)
        for value in values:
            of_value = np.flatnonzero(components.values == value)
            largest_first = np.argsort(-components.voxels[of_value], kind="stable")
            dropped[of_value[largest_first[: self.count]]] = False
        return dropped

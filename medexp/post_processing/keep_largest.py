"""Keep the largest connected component of each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer

from medexp.core.types import Kind, Prediction
from medexp.post_processing._components import check_connectivity, find_components, without
from medexp.post_processing._masks import check_names, mask_of, values_by_layer


class KeepLargest:
    """Keep the largest connected component of each class; the others become background.

    Of components of equal size the one whose first voxel comes first in the array stays.

    Args:
        connectivity: "faces", neighbours share a face (4 in 2D, 6 in 3D), or "corners", they may share a corner only (8
            in 2D, 26 in 3D).
        classes: Names of the classes to work on; None for all. The others stay as they are.

    Raises:
        UsageError: A knob has a value that is not listed.
    """

    takes = Kind.MASK
    gives = Kind.MASK

    def __init__(self, *, connectivity: str = "corners", classes: Sequence[str] | None = None) -> None:
        self.connectivity = check_connectivity(connectivity, "keep_largest")
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
        mask = mask_of(prediction, "keep_largest").copy()
        for layer, values in values_by_layer(prediction, self.classes, "keep_largest").items():
            mask[layer] = _largest_of_each(mask[layer], values, self.connectivity)
        return prediction.with_mask(mask)


def _largest_of_each(
    layer: Integer[np.ndarray, "*spatial"], values: list[int], connectivity: str
) -> Integer[np.ndarray, "*spatial"]:
    components = find_components(layer, connectivity)
    dropped = np.isin(components.values, values)
    for value in values:
        sizes = np.where(components.values == value, components.voxels, 0)
        dropped[np.argmax(sizes)] = False
    return without(layer, components, dropped)

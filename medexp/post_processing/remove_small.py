"""Remove small connected components."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer

from medexp.core.types import Kind, Prediction
from medexp.post_processing._components import check_connectivity, check_volume, find_components, voxels_of, without
from medexp.post_processing._masks import check_names, mask_of, values_by_layer


class RemoveSmall:
    """Remove the connected components that are smaller than a volume; one exactly as large stays.

    Args:
        min_volume_mm3: Smallest volume that stays, in mm3; in 2D the smallest area in mm2, and the smallest number of
            pixels where `Geometry.unit` is "px".
        connectivity: "faces", neighbours share a face (4 in 2D, 6 in 3D), or "corners", they may share a corner only (8
            in 2D, 26 in 3D).
        classes: Names of the classes to work on; None for all. The others stay as they are.

    Raises:
        UsageError: The volume is negative or not finite, or a knob has a value that is not listed.
    """

    takes = Kind.MASK
    gives = Kind.MASK

    def __init__(
        self, *, min_volume_mm3: float, connectivity: str = "corners", classes: Sequence[str] | None = None
    ) -> None:
        self.min_volume_mm3 = check_volume(min_volume_mm3, "remove_small.min_volume_mm3")
        self.connectivity = check_connectivity(connectivity, "remove_small")
        self.classes = check_names(classes, "remove_small")

    def __call__(self, prediction: Prediction) -> Prediction:
        """Clean the mask.

        Args:
            prediction: What an earlier step gave, with a mask.

        Returns:
            The prediction with another mask of the same shape and type.

        Raises:
            UsageError: There is no mask, or `classes` names one that the prediction does not have.
        """
        mask = mask_of(prediction, "remove_small").copy()
        min_voxels = voxels_of(self.min_volume_mm3, prediction.geometry)
        for layer, values in values_by_layer(prediction, self.classes, "remove_small").items():
            mask[layer] = _drop_components(mask[layer], values, min_voxels, self.connectivity)
        return prediction.with_mask(mask)


def _drop_components(
    layer: Integer[np.ndarray, "*spatial"], values: list[int], min_voxels: int, connectivity: str
) -> Integer[np.ndarray, "*spatial"]:
    components = find_components(layer, connectivity)
    return without(layer, components, np.isin(components.values, values) & (components.voxels < min_voxels))

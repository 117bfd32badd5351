"""Remove small connected components."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Integer

from medexp.core.types import Kind, Prediction
from medexp.post_processing._components import Components, find_components, voxels_of, without, without_joint
from medexp.post_processing._knobs import check_connectivity, check_flag, check_names, check_volume
from medexp.post_processing._masks import with_layers


class RemoveSmall:
    """Remove the connected components that are smaller than a volume; one exactly as large stays.

    Args:
        min_volume_mm3: Smallest volume that stays, in mm3; in 2D the smallest area in mm2, and the smallest number of
            pixels where `Geometry.unit` is "px".
        connectivity: "faces", neighbours share a face (4 in 2D, 6 in 3D), or "corners", they may share a corner only (8
            in 2D, 26 in 3D).
        joint: False works on each class by itself; true takes voxels of any of the classes, in whichever layer, as one
            foreground, so that touching classes are one component.
        classes: Names of the classes to work on; None for all. The others stay as they are.

    Raises:
        UsageError: The volume is negative or not finite, or a knob has a value that is not listed.
    """

    takes = Kind.MASK
    gives = Kind.MASK

    def __init__(
        self,
        *,
        min_volume_mm3: float,
        connectivity: str = "corners",
        joint: bool = False,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.min_volume_mm3 = check_volume(min_volume_mm3, "remove_small.min_volume_mm3")
        self.connectivity = check_connectivity(connectivity, "remove_small")
        self.joint = check_flag(joint, "remove_small.joint")
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
        min_voxels = voxels_of(self.min_volume_mm3, prediction.geometry)

        def dropped(components: Components, values: list[int]) -> Bool[np.ndarray, "components"]:
            return np.isin(components.values, values) & (components.voxels < min_voxels)

        def cleaned(layer: Integer[np.ndarray, "*spatial"], values: list[int]) -> Integer[np.ndarray, "*spatial"]:
            components = find_components(layer, self.connectivity)
            return without(layer, components, dropped(components, values))

        if self.joint:
            return without_joint(prediction, self.classes, self.connectivity, dropped, step="remove_small")
        return with_layers(prediction, self.classes, "remove_small", cleaned)

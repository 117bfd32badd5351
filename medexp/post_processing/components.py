"""Connected components of a mask as instances."""

from __future__ import annotations

import numpy as np

from medexp.core.types import Kind, Prediction
from medexp.post_processing._components import find_components, voxels_of
from medexp.post_processing._instances import check_exclusive, with_instances
from medexp.post_processing._knobs import check_connectivity, check_volume
from medexp.post_processing._masks import mask_of


class Components:
    """Make each connected component of a class an instance; objects that touch become one.

    The mask keeps the components that became instances. An object's score is the mean probability of its class inside
    it, where there are probabilities.

    Args:
        connectivity: "faces", neighbours share a face (4 in 2D, 6 in 3D), or "corners", they may share a corner only (8
            in 2D, 26 in 3D).
        min_volume_mm3: Smallest component that becomes an instance, in mm3; in 2D the smallest area in mm2, and the
            smallest number of pixels where `Geometry.unit` is "px". One exactly as large stays.

    Raises:
        UsageError: The volume is negative or not finite, or there is no such connectivity.
    """

    takes = Kind.MASK
    gives = Kind.INSTANCES

    def __init__(self, *, connectivity: str = "faces", min_volume_mm3: float = 0.0) -> None:
        self.connectivity = check_connectivity(connectivity, "components")
        self.min_volume_mm3 = check_volume(min_volume_mm3, "components.min_volume_mm3")

    def __call__(self, prediction: Prediction) -> Prediction:
        """Make the instances.

        Args:
            prediction: What an earlier step gave, with a mask of one layer.

        Returns:
            The prediction with instances, objects, and a mask that shows them.

        Raises:
            UsageError: There is no mask, or the classes overlap.
            DataError: The probabilities do not fit the classes, or hold nan.
        """
        check_exclusive(prediction, "components")
        components = find_components(mask_of(prediction, "components")[0], self.connectivity)
        large = components.voxels >= voxels_of(self.min_volume_mm3, prediction.geometry)
        kept = np.flatnonzero(large & (components.values > 0))
        values = {int(number): int(components.values[number]) for number in kept}
        return with_instances(prediction, components.numbers, values, "components")

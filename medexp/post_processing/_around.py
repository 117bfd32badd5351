"""What steps have in common that look at the voxels around each voxel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Integer

from medexp.core.types import SOFT, Kind, Prediction
from medexp.post_processing._knobs import check_names
from medexp.post_processing._masks import with_channels, with_layers
from medexp.post_processing._neighbourhood import Neighbourhood, Reach


class AroundStep(ABC):
    """Change the mask where there is one, else the probabilities, by what lies around each voxel.

    Args:
        radius_mm: Voxels count as around whose centre lies within this distance, in mm; in pixels where `Geometry.unit`
            is "px". A radius below every voxel spacing changes nothing. None where a window is given.
        window: Side of a window in voxels, odd, or one for each axis; None where a radius is given.
        classes: Names of the classes to work on; None for all. The others stay as they are.

    Attributes:
        name: Name of the step, for errors.

    Raises:
        UsageError: Not exactly one of radius and window is given, or a knob has a value that is not listed.
    """

    takes = (*SOFT, Kind.MASK)
    gives = None
    name: ClassVar[str]

    def __init__(
        self,
        *,
        radius_mm: float | None = None,
        window: int | Sequence[int] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.reach = Reach.of(radius_mm, window, self.name)
        self.classes = check_names(classes, self.name)

    def __call__(self, prediction: Prediction) -> Prediction:
        """Change mask or probabilities.

        Args:
            prediction: With a mask or probabilities.

        Returns:
            The prediction with another mask, or other probabilities, of the same shape and type.

        Raises:
            UsageError: `classes` names one that the prediction does not have, or the window does not fit its axes.
            DataError: The probabilities do not fit the classes, or hold nan.
        """
        around = self.reach.on(prediction, self.name)
        if prediction.mask is None:
            return with_channels(prediction, self.classes, self.name, lambda soft: self.changed_channel(soft, around))
        return with_layers(
            prediction, self.classes, self.name, lambda layer, values: self.changed_layer(layer, values, around)
        )

    @abstractmethod
    def changed_channel(
        self, soft: Float[np.ndarray, "*spatial"], around: Neighbourhood
    ) -> Float[np.ndarray, "*spatial"]:
        """Other probabilities of a class, from those of the class alone."""

    @abstractmethod
    def changed_layer(
        self, layer: Integer[np.ndarray, "*spatial"], values: Sequence[int], around: Neighbourhood
    ) -> Integer[np.ndarray, "*spatial"]:
        """A copy of a layer in which the classes of some values have changed."""

"""What every representation of instances by maps is to the task that learns it."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from jaxtyping import Bool, Float, Integer
from torch import Tensor, nn

from medexp.core.types import Kind


class Representation(nn.Module, ABC):
    """How the objects of an image are written as maps, which a dense network learns beside the classes.

    A post-processing step that takes `gives` makes instances of the maps again.

    Attributes:
        gives: What a prediction holds with these maps.
        heads: Names and channels of the maps that a network must return beside the semantic one.
        vectors: Maps whose channels are the components of a vector along the axes, in voxels of the network's grid.
    """

    gives: Kind
    heads: dict[str, int]
    vectors: frozenset[str] = frozenset()

    @abstractmethod
    def targets(self, instances: Integer[np.ndarray, "*spatial"]) -> dict[str, Tensor]:
        """What the loss sees of one sample, by name, each (channels, *spatial); runs in the loader's workers.

        Args:
            instances: Ids from 1 on, 0 where there is no object; an object need not be connected.

        Returns:
            The targets; a name may be that of a head.
        """

    @abstractmethod
    def loss(
        self,
        levels: dict[str, list[Tensor]],
        targets: dict[str, Tensor],
        valid: Bool[Tensor, "batch 1 *spatial"],
    ) -> dict[str, Tensor]:
        """Weighted terms by name.

        Args:
            levels: The maps of each head as the network gives them, the finest first, then those of deep supervision.
            targets: The targets of the batch.
            valid: Voxels that were annotated; the others count in no term.

        Returns:
            The terms; zero, with a gradient, where no voxel counts.
        """

    @abstractmethod
    def maps(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The soft maps of a prediction, each (batch, channels, *spatial), of the network's finest ones."""

    def directions(self) -> dict[str, Float[np.ndarray, "_ dims"]]:
        """For maps whose channels speak of directions: a vector for each channel, in voxels of the network's grid."""
        return {}

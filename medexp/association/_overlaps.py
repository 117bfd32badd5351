"""How much the objects of two label images on one grid lie on each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer


@dataclass(frozen=True, eq=False)
class Shared:
    """All pairs of objects of two images that share a voxel, ordered by first and then by second id.

    Attributes:
        first: Id in the first image.
        second: Id in the second image.
        voxels: Voxels that both share.
        first_voxels: Voxels of the object of the first image.
        second_voxels: Voxels of the object of the second image.
    """

    first: Integer[np.ndarray, "pairs"]
    second: Integer[np.ndarray, "pairs"]
    voxels: Integer[np.ndarray, "pairs"]
    first_voxels: Integer[np.ndarray, "pairs"]
    second_voxels: Integer[np.ndarray, "pairs"]

    @property
    def iou(self) -> Float[np.ndarray, "pairs"]:
        """Shared voxels over those that either has."""
        return self.voxels / (self.first_voxels + self.second_voxels - self.voxels)

    @property
    def of_second(self) -> Float[np.ndarray, "pairs"]:
        """The part of the second object that the first one covers."""
        return self.voxels / self.second_voxels


def shared_voxels(first: Integer[np.ndarray, "*spatial"], second: Integer[np.ndarray, "*spatial"]) -> Shared:
    """The pairs of objects that share a voxel.

    Args:
        first: Ids, 0 where there is none.
        second: Ids on the same grid.

    Returns:
        The pairs.
    """
    one, two = (ids.reshape(-1).astype(np.int64) for ids in (first, second))
    both = (one > 0) & (two > 0)
    width = int(two.max(initial=0)) + 1
    keys, voxels = np.unique(one[both] * width + two[both], return_counts=True)
    ids_one, ids_two = keys // width, keys % width
    return Shared(ids_one, ids_two, voxels, _sizes(one, ids_one), _sizes(two, ids_two))


def _sizes(ids: Integer[np.ndarray, "voxels"], of: Integer[np.ndarray, "pairs"]) -> Integer[np.ndarray, "pairs"]:
    found, counts = np.unique(ids[ids > 0], return_counts=True)
    return counts[np.searchsorted(found, of)]

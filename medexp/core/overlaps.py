"""How much the objects of two label images on one grid lie on each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer
from scipy.sparse import coo_array


@dataclass(frozen=True, eq=False)
class Overlaps:
    """All pairs of instances that share a voxel, ordered by first and then by second id.

    Attributes:
        first: Id in the first image of each pair.
        second: Id in the second image of each pair.
        shared: Voxels that both share.
        first_voxels: Voxels of each id of the first image, from 0 on.
        second_voxels: Voxels of each id of the second image, from 0 on.
    """

    first: Integer[np.ndarray, "pairs"]
    second: Integer[np.ndarray, "pairs"]
    shared: Integer[np.ndarray, "pairs"]
    first_voxels: Integer[np.ndarray, "first_ids"]
    second_voxels: Integer[np.ndarray, "second_ids"]

    @property
    def either(self) -> Integer[np.ndarray, "pairs"]:
        """Voxels that at least one of a pair has."""
        sizes: np.ndarray = self.first_voxels[self.first] + self.second_voxels[self.second]
        return sizes - self.shared

    @property
    def iou(self) -> Float[np.ndarray, "pairs"]:
        """Voxels that both share over the voxels that either has."""
        ratio: np.ndarray = self.shared / self.either
        return ratio

    @property
    def of_first(self) -> Float[np.ndarray, "pairs"]:
        """The part of the first object that the second one covers."""
        part: np.ndarray = self.shared / self.first_voxels[self.first]
        return part

    @property
    def of_second(self) -> Float[np.ndarray, "pairs"]:
        """The part of the second object that the first one covers."""
        part: np.ndarray = self.shared / self.second_voxels[self.second]
        return part


def overlaps(
    first: Integer[np.ndarray, "*spatial"],
    second: Integer[np.ndarray, "*spatial"],
    *,
    n_first: int | None = None,
    n_second: int | None = None,
) -> Overlaps:
    """The pairs of instances that share a voxel, from a sparse table of all pairs of ids that occur.

    Both images are read once, as runs of voxels in which neither id changes, and the runs are summed up.

    Args:
        first: Instance ids, 0 where there is none.
        second: Instance ids on the same grid.
        n_first: Largest id of the first image that there may be; None for the largest there is.
        n_second: The same for the second image.

    Returns:
        The pairs.
    """
    one, two = first.ravel(), second.ravel()
    ends = np.flatnonzero((one[1:] != one[:-1]) | (two[1:] != two[:-1])) + 1
    starts = np.concatenate([[0], ends]) if one.size else np.zeros(0, dtype=np.int64)
    voxels = np.diff(np.append(starts, one.size))
    ids = one[starts], two[starts]
    shape = tuple(
        1 + int(found.max(initial=0) if most is None else most)
        for found, most in zip(ids, (n_first, n_second), strict=True)
    )
    table = coo_array((voxels, ids), shape=shape).tocsr()  # sums the runs of a pair
    table.sort_indices()
    sizes = (np.asarray(table.sum(axis=axis)) for axis in (1, 0))
    pairs = table.tocoo()
    both = (pairs.row > 0) & (pairs.col > 0)
    return Overlaps(pairs.row[both], pairs.col[both], pairs.data[both], *sizes)

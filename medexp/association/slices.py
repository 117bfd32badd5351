"""Objects that were found slice by slice, joined to objects of the volume."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer
from scipy.optimize import linear_sum_assignment

from medexp.association._knobs import check_count, check_part
from medexp.core.overlaps import overlaps


class SliceJoiner:
    """Joins the objects of consecutive slices that lie on each other.

    Slice by slice, its objects and the latest outlines of the objects of the volume are paired one to one, so that the
    sum of their intersections over unions is greatest among all ways to pair them. What is in the slice before is
    paired first, then what was last seen a slice earlier, and so on; what is left begins an object of its own.

    Args:
        min_iou: Smallest intersection over union of two outlines of one object.
        gap_slices: How many slices an object may be missing from in a row.

    Raises:
        UsageError: A knob has an unfit value.
    """

    def __init__(self, *, min_iou: float = 0.3, gap_slices: int = 0) -> None:
        self.min_iou = check_part(min_iou, "min_iou")
        self.gap_slices = check_count(gap_slices, "gap_slices")

    def __call__(self, slices: Integer[np.ndarray, "depth *plane"]) -> Integer[np.ndarray, "depth *plane"]:
        """Join the objects.

        Args:
            slices: Ids of each slice, 0 where there is none; an id says nothing of other slices.

        Returns:
            Ids of the volume from 1 on, in the order of their first slice and of their ids there.
        """
        joined = np.zeros(slices.shape, dtype=np.int32)
        count = 0
        for depth, ids in enumerate(slices):
            left = ids.copy()
            for step in range(1, min(self.gap_slices + 1, depth) + 1):
                # What has been seen since then, in this slice too, has its outline nearer by.
                nearer = np.unique(joined[depth - step + 1 : depth + 1])
                before = np.where(np.isin(joined[depth - step], nearer), 0, joined[depth - step])
                for volume_id, slice_id in self._pairs(before, left):
                    joined[depth][ids == slice_id] = volume_id
                    left[ids == slice_id] = 0
            new = np.unique(left[left > 0])
            joined[depth][left > 0] = count + 1 + np.searchsorted(new, left[left > 0])
            count += len(new)
        return joined

    def _pairs(
        self, before: Integer[np.ndarray, "*plane"], after: Integer[np.ndarray, "*plane"]
    ) -> list[tuple[int, int]]:
        shared = overlaps(before, after)
        near = shared.iou >= self.min_iou
        firsts, rows = np.unique(shared.first[near], return_inverse=True)
        seconds, columns = np.unique(shared.second[near], return_inverse=True)
        iou: Float[np.ndarray, "firsts seconds"] = np.zeros((len(firsts), len(seconds)))
        iou[rows, columns] = shared.iou[near]
        chosen = zip(*linear_sum_assignment(iou, maximize=True), strict=True)
        return [(int(firsts[row]), int(seconds[column])) for row, column in chosen if iou[row, column] > 0]

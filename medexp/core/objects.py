"""Things in an image that have a place, a class and a score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped
from scipy.ndimage import find_objects

from medexp.core.errors import DataError


@dataclass(frozen=True, eq=False)
class Objects:
    """Boxes with classes and scores, one object a row; a place without extent is a box whose ends coincide.

    Voxel i covers [i, i + 1) along its axis, so that its centre lies at i + 1/2, and an object that fills voxels 3 to 5
    has the box [3, 6). Axes come in the order of the array.

    Attributes:
        boxes: Lower ends along all axes, then upper ends.
        labels: Label ids in an annotation, values of `StructureClass` in a prediction.
        scores: Confidence from 0 to 1; 1 for a reference.
    """

    boxes: Float[np.ndarray, "n corners"]
    labels: Integer[np.ndarray, "n_labels"]
    scores: Float[np.ndarray, "n_scores"]

    def __post_init__(self) -> None:
        if not len(self.boxes) == len(self.labels) == len(self.scores):
            raise DataError(
                f"objects need as many labels and scores as boxes, got {len(self.boxes)}, {len(self.labels)} and "
                f"{len(self.scores)}"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def spatial_dims(self) -> int:
        """Number of axes."""
        return self.boxes.shape[1] // 2

    @property
    def low(self) -> Float[np.ndarray, "n dims"]:
        """Lower ends."""
        return self.boxes[:, : self.spatial_dims]

    @property
    def high(self) -> Float[np.ndarray, "n dims"]:
        """Upper ends."""
        return self.boxes[:, self.spatial_dims :]

    @property
    def centers(self) -> Float[np.ndarray, "n dims"]:
        """Middles of the boxes."""
        return (self.low + self.high) / 2

    @classmethod
    def of(
        cls,
        boxes: Shaped[np.ndarray, "n corners"],
        labels: Shaped[np.ndarray, "n_labels"],
        scores: Shaped[np.ndarray, "n_scores"] | None = None,
    ) -> Objects:
        """Objects from arrays of any number type; without scores they are a reference's."""
        return cls(
            boxes=np.asarray(boxes, dtype=np.float64),
            labels=np.asarray(labels, dtype=np.int64),
            scores=np.ones(len(boxes)) if scores is None else np.asarray(scores, dtype=np.float64),
        )

    @classmethod
    def none(cls, spatial_dims: int) -> Objects:
        """No object."""
        return cls.of(np.zeros((0, 2 * spatial_dims)), np.zeros(0))

    @classmethod
    def of_instances(cls, instances: Integer[np.ndarray, "*spatial"], labels: Mapping[int, int]) -> Objects:
        """The bounding boxes of instances 1 to n, in this order.

        Args:
            instances: Instance ids, 0 where there is none.
            labels: Label id of each instance.

        Returns:
            Row k - 1 is instance k.

        Raises:
            DataError: The ids in the map are not 1 to n.
        """
        found = find_objects(instances)
        if any(box is None for box in found) or len(found) != len(labels):
            raise DataError(f"instances need the ids 1..{len(labels)}, one for each label; some are absent or unknown")
        ends = [[box.start for box in axes] + [box.stop for box in axes] for axes in found]
        boxes = np.array(ends, dtype=np.float64).reshape(len(ends), 2 * instances.ndim)
        return cls.of(boxes, np.array([labels[identity] for identity in range(1, len(found) + 1)]))

    def select(self, chosen: Shaped[np.ndarray, "m"]) -> Objects:
        """Some of the rows, by index or by a mask."""
        return Objects(boxes=self.boxes[chosen], labels=self.labels[chosen], scores=self.scores[chosen])

    def moved(self, matrix: Float[np.ndarray, "dims dims"], offset: Float[np.ndarray, "dims"]) -> Objects:
        """The boxes around what `x -> matrix @ x + offset` makes of each box."""
        ends = np.stack([self.low, self.high])
        axes = np.arange(self.spatial_dims)
        corners = [ends[list(choice), :, axes].T for choice in product((0, 1), repeat=self.spatial_dims)]
        moved = np.stack([corner @ matrix.T for corner in corners]) + offset
        return self._with_ends(moved.min(axis=0), moved.max(axis=0))

    def clipped(self, shape: tuple[int, ...], *, least_visible: float = 0.0) -> tuple[Objects, Bool[np.ndarray, "n"]]:
        """The objects whose centre lies in a grid and of which enough is to be seen, cut at its border.

        Args:
            shape: Voxels of the grid along each axis.
            least_visible: Smallest part of a box's volume that must lie in the grid.

        Returns:
            The objects, and which rows they were.
        """
        size = np.array(shape, dtype=np.float64)
        low, high = np.clip(self.low, 0, size), np.clip(self.high, 0, size)
        whole = np.prod(self.high - self.low, axis=1)
        visible = np.divide(np.prod(high - low, axis=1), whole, out=np.ones(len(self)), where=whole > 0)
        inside = ((self.centers >= 0) & (self.centers < size)).all(axis=1) & (visible >= least_visible)
        return self._with_ends(low, high).select(inside), inside

    def _with_ends(self, low: Float[np.ndarray, "n dims"], high: Float[np.ndarray, "n dims"]) -> Objects:
        return Objects(boxes=np.concatenate([low, high], axis=1), labels=self.labels, scores=self.scores)

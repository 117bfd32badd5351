"""Objects by affinities: whether two voxels belong to the same one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer, Shaped
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from medexp.core.errors import UsageError
from medexp.core.types import Kind
from medexp.tasks.representations.base import Representation

HEAD = "affinity"
_SMOOTH = 1e-5


class Affinity(Representation):
    """For each of some offsets, the probability that a voxel and the one at the offset belong to the same object.

    The first offsets lead to the neighbour along each axis, by which objects grow together; the others lead farther,
    and keep objects apart. For each distance in `long_range_px` they lie along each axis and, with `diagonals`, along
    all diagonals, one of two opposite ones each.

    A pair of voxels counts where both lie in the image and were annotated and at least one of them in an object. Dice
    is 1 - 2 sum(p t) / (sum(p^2) + sum(t^2)) of the probabilities p and truths t that a pair is apart, which is rare,
    as a mean over the offsets; "bce" is the mean cross-entropy over all pairs.

    Source: S. Wolf et al., The mutex watershed and its objective: efficient, parameter-free graph partitioning, IEEE
    Transactions on Pattern Analysis and Machine Intelligence 43 (2021).

    Args:
        spatial_dims: 2 or 3.
        long_range_px: Distances of the far voxels, in voxels along each axis that the offset has.
        diagonals: Whether the offsets lie along diagonals too.
        criterion: "dice" or "bce".
        weight: Factor on the loss.

    Raises:
        UsageError: A knob has no such value.
    """

    gives = Kind.AFFINITIES

    def __init__(
        self, *, spatial_dims: int, long_range_px: Sequence[int], diagonals: bool, criterion: str, weight: float
    ) -> None:
        super().__init__()
        if not long_range_px or not all(distance >= 2 for distance in long_range_px):
            raise UsageError(
                f"task.representation.long_range_px needs a list of whole numbers from 2 on, got {list(long_range_px)}"
                "; without them nothing keeps objects apart"
            )
        if criterion not in ("dice", "bce"):
            raise UsageError(f"task.representation.criterion needs dice or bce, got {criterion!r}")
        if not weight > 0:
            raise UsageError(f"task.representation.weight needs a value above 0, got {weight}")
        self.offsets = _offsets(spatial_dims, long_range_px, diagonals)
        self.criterion = criterion
        self.weight = weight
        self.heads = {HEAD: len(self.offsets)}

    def targets(self, instances: Integer[np.ndarray, "*spatial"]) -> dict[str, Tensor]:
        """The ids of the objects under "affinity", 0 where there is none."""
        return {HEAD: torch.from_numpy(np.ascontiguousarray(instances, dtype=np.int32))[None]}

    def loss(
        self, levels: dict[str, list[Tensor]], targets: dict[str, Tensor], valid: Bool[Tensor, "batch 1 *spatial"]
    ) -> dict[str, Tensor]:
        """The loss of the finest map, under "affinity_dice" or "affinity_bce"."""
        said = levels[HEAD][0].float()
        ids = torch.where(valid, targets[HEAD], -1)
        there = at_offsets(ids, self.offsets, outside=-1)
        counts = (ids >= 0) & (there >= 0) & ((ids > 0) | (there > 0))
        apart = (ids != there).float()
        loss = _dice(said, apart, counts) if self.criterion == "dice" else _cross_entropy(said, apart, counts)
        return {f"affinity_{self.criterion}": self.weight * loss}

    def maps(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The probabilities that the voxels are of one object."""
        return {HEAD: outputs[HEAD].sigmoid()}

    def directions(self) -> dict[str, Float[np.ndarray, "_ dims"]]:
        """The offset of each channel, first those to the neighbour along each axis."""
        return {HEAD: np.array(self.offsets, dtype=np.float64)}


def at_offsets(
    values: Shaped[Tensor, "batch 1 *spatial"], offsets: Sequence[tuple[int, ...]], *, outside: int
) -> Shaped[Tensor, "batch offsets *spatial"]:
    """What lies at each offset from each voxel.

    Args:
        values: Of each voxel.
        offsets: In voxels along the axes; none need be smaller than the image.
        outside: What lies outside the image.

    Returns:
        A channel for each offset.
    """
    return torch.cat([_at_offset(values, offset, outside) for offset in offsets], dim=1)


def _at_offset(
    values: Shaped[Tensor, "batch 1 *spatial"], offset: tuple[int, ...], outside: int
) -> Shaped[Tensor, "batch 1 *spatial"]:
    there = torch.full_like(values, outside)
    if all(abs(step) < size for step, size in zip(offset, values.shape[2:], strict=True)):
        to, source = there, values
        for axis, step in enumerate(offset, start=2):
            length = values.shape[axis] - abs(step)
            to = to.narrow(axis, max(-step, 0), length)
            source = source.narrow(axis, max(step, 0), length)
        to.copy_(source)
    return there


def _offsets(spatial_dims: int, long_range_px: Sequence[int], diagonals: bool) -> list[tuple[int, ...]]:
    """The neighbours along each axis, then for each distance those along the axes and maybe the diagonals."""
    along = [tuple(int(each == axis) for each in range(spatial_dims)) for axis in range(spatial_dims)]
    every = list(itertools.product((-1, 0, 1), repeat=spatial_dims))
    half = every[len(every) // 2 + 1 :]  # of two opposite steps the later one
    ways = half if diagonals else along
    return along + [tuple(distance * each for each in way) for distance in long_range_px for way in ways]


def _dice(
    said: Float[Tensor, "batch offsets *spatial"],
    apart: Float[Tensor, "batch offsets *spatial"],
    counts: Bool[Tensor, "batch offsets *spatial"],
) -> Float[Tensor, ""]:
    """Of pairs that are apart, over the batch, as a mean over the offsets; 0 for an offset without a pair."""
    over = (0, *range(2, said.ndim))
    likely, truth = (-said).sigmoid() * counts, apart * counts
    both = (likely * truth).sum(dim=over)
    squares = (likely**2).sum(dim=over) + (truth**2).sum(dim=over)
    return (1 - (2 * both + _SMOOTH) / (squares + _SMOOTH)).mean()


def _cross_entropy(
    said: Float[Tensor, "batch offsets *spatial"],
    apart: Float[Tensor, "batch offsets *spatial"],
    counts: Bool[Tensor, "batch offsets *spatial"],
) -> Float[Tensor, ""]:
    """Over all pairs."""
    each = binary_cross_entropy_with_logits(said, 1 - apart, reduction="none")
    return (each * counts).sum() / counts.sum().clamp(min=1)

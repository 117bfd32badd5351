"""Connected components of one layer of a mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
from jaxtyping import Bool, Integer, Shaped

from medexp.core.geometry import Geometry
from medexp.core.types import Prediction
from medexp.post_processing._knobs import NEIGHBOURS
from medexp.post_processing._masks import mask_of, values_by_layer

# Spacings come from headers in single precision, and their product is off by up to 2e-7 of itself.
_SLACK = 1 - 1e-6


@dataclass(frozen=True, eq=False)
class Components:
    """The components of a layer; each holds voxels of one value.

    Attributes:
        numbers: Number of the component of each voxel, 0 for background; numbers rise in the order of the array.
        voxels: Size of each component by number.
        values: Value of each component by number.
        starts: Where in memory each run of one number begins; runs answer what is asked of few components.
        lengths: Voxels of each run.
    """

    numbers: Integer[np.ndarray, "*spatial"]
    voxels: Integer[np.ndarray, "components"]
    values: Integer[np.ndarray, "components"]
    starts: Integer[np.ndarray, "runs"]
    lengths: Integer[np.ndarray, "runs"]

    def places(self, chosen: Bool[np.ndarray, "components"]) -> Integer[np.ndarray, "voxels"]:
        """Where in memory the voxels of some components lie."""
        runs = np.flatnonzero(chosen[self.numbers.ravel()[self.starts]])
        lengths = self.lengths[runs]
        before = np.cumsum(lengths) - lengths
        return np.repeat(self.starts[runs] - before, lengths) + np.arange(lengths.sum())


def voxels_of(volume_mm3: float, geometry: Geometry) -> int:
    """The smallest number of voxels that make up a volume (an area in 2D)."""
    return math.ceil(volume_mm3 / geometry.voxel_volume_mm3 * _SLACK)


def most_voxels_of(volume_mm3: float | None, geometry: Geometry) -> float:
    """The largest number of voxels that a volume (an area in 2D) holds; infinite for None."""
    return math.inf if volume_mm3 is None else float(math.floor(volume_mm3 / geometry.voxel_volume_mm3 / _SLACK))


def find_components(layer: Integer[np.ndarray, "*spatial"], connectivity: str) -> Components:
    """Label the components of equal value in a layer of 2 or 3 axes."""
    contiguous = np.require(layer, requirements=["C", "W"])  # cc3d takes no read-only array
    numbers = numbered(contiguous, connectivity)
    starts = _starts_of_runs(numbers)
    lengths = np.diff(np.append(starts, numbers.size))
    at_starts = numbers.ravel()[starts]
    voxels = np.bincount(at_starts, weights=lengths, minlength=1).astype(np.int64)
    values = np.zeros(len(voxels), dtype=layer.dtype)
    values[at_starts] = contiguous.ravel()[starts]
    return Components(numbers, voxels, values, starts, lengths)


def numbered(array: Shaped[np.ndarray, "*spatial"], connectivity: str) -> Integer[np.ndarray, "*spatial"]:
    """Number the components of equal value of a writable array in C order, from 1 in the order of the array."""
    # cc3d 4.1.1 joins what is apart, or fails, in flags of a single row over corners; not in numbers.
    plain = array.view(np.uint8) if array.dtype == bool else array
    numbers: np.ndarray = cc3d.connected_components(plain, connectivity=NEIGHBOURS[connectivity][plain.ndim])
    return numbers


def _starts_of_runs(numbers: Integer[np.ndarray, "*spatial"]) -> Integer[np.ndarray, "runs"]:
    """Places in memory where the number differs from the one before; what lies between is told by them."""
    flat = numbers.ravel()
    return np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1]) if flat.size else np.zeros(0, np.int64)


def without(
    layer: Integer[np.ndarray, "*spatial"], components: Components, dropped: Bool[np.ndarray, "components"]
) -> Integer[np.ndarray, "*spatial"]:
    """A copy of the layer in which the dropped components are background."""
    cleaned = np.array(layer, order="C")
    cleaned.ravel()[components.places(dropped)] = 0
    return cleaned


def without_joint(
    prediction: Prediction,
    names: Sequence[str] | None,
    connectivity: str,
    dropped: Callable[[Components, list[int]], Bool[np.ndarray, "components"]],
    *,
    step: str,
) -> Prediction:
    """The prediction without some components of the voxels that belong to any of the classes.

    Args:
        prediction: What an earlier step gave, with a mask.
        names: Names of the classes, or None for all.
        connectivity: Which voxels are neighbours.
        dropped: Says of the components, all of value 1, which are dropped.
        step: Name of the step, for errors.

    Returns:
        The prediction with another mask of the same shape and type.

    Raises:
        UsageError: There is no mask, or a name is not among the prediction's classes.
    """
    by_layer = values_by_layer(prediction, names, step)
    mask = mask_of(prediction, step)
    chosen = {layer: np.isin(mask[layer], values) for layer, values in by_layer.items()}
    components = find_components(np.logical_or.reduce(list(chosen.values())).astype(np.uint8), connectivity)
    gone = components.places(dropped(components, [1]))
    cleaned = np.array(mask, order="C")
    for layer, of_class in chosen.items():
        cleaned[layer].ravel()[gone[of_class.ravel()[gone]]] = 0
    return prediction.with_mask(cleaned)

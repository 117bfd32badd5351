"""Connected components of one layer of a mask."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cc3d
import numpy as np
from jaxtyping import Bool, Integer

from medexp.core.errors import UsageError
from medexp.core.geometry import Geometry

# By number of axes: voxels that share a face are neighbours, or those too that share an edge or a corner only.
_NEIGHBOURS = {"faces": {2: 4, 3: 6}, "corners": {2: 8, 3: 26}}

# Spacings come from headers in single precision, and their product is off by up to 2e-7 of itself.
_SLACK = 1 - 1e-6


@dataclass(frozen=True, eq=False)
class Components:
    """The components of a layer; each holds voxels of one value.

    Attributes:
        numbers: Number of the component of each voxel, 0 for background; numbers rise in the order of the array.
        voxels: Size of each component by number.
        values: Value of each component by number.
    """

    numbers: Integer[np.ndarray, "*spatial"]
    voxels: Integer[np.ndarray, "components"]
    values: Integer[np.ndarray, "components"]


def check_connectivity(connectivity: str, step: str) -> str:
    """The connectivity, if there is one of that name.

    Args:
        connectivity: The name.
        step: Name of the step, for the error.

    Returns:
        The same name.

    Raises:
        UsageError: There is none.
    """
    if connectivity not in _NEIGHBOURS:
        raise UsageError(f"{step}.connectivity needs {' or '.join(_NEIGHBOURS)}, got {connectivity!r}")
    return connectivity


def check_volume(volume_mm3: float, knob: str) -> float:
    """The smallest volume that stays, if there can be one.

    Args:
        volume_mm3: The volume.
        knob: Name of the knob with its step, for the error.

    Returns:
        The same volume.

    Raises:
        UsageError: It is negative or not finite.
    """
    if not 0 <= volume_mm3 < math.inf:
        raise UsageError(f"{knob} needs a finite value of at least 0, got {volume_mm3}")
    return volume_mm3


def voxels_of(volume_mm3: float, geometry: Geometry) -> int:
    """The smallest number of voxels that make up a volume (an area in 2D)."""
    return math.ceil(volume_mm3 / geometry.voxel_volume_mm3 * _SLACK)


def find_components(layer: Integer[np.ndarray, "*spatial"], connectivity: str) -> Components:
    """Label the components of equal value in a layer of 2 or 3 axes."""
    contiguous = np.require(layer, requirements=["C", "W"])  # cc3d takes no read-only array
    numbers = cc3d.connected_components(contiguous, connectivity=_NEIGHBOURS[connectivity][layer.ndim])
    voxels = cc3d.statistics(numbers, no_slice_conversion=True)["voxel_counts"]
    values = np.zeros(len(voxels), dtype=layer.dtype)
    foreground = numbers != 0
    values[numbers[foreground]] = contiguous[foreground]
    return Components(numbers, voxels, values)


def without(
    layer: Integer[np.ndarray, "*spatial"], components: Components, dropped: Bool[np.ndarray, "components"]
) -> Integer[np.ndarray, "*spatial"]:
    """A copy of the layer in which the dropped components are background."""
    return np.where(dropped[components.numbers], layer.dtype.type(0), layer)

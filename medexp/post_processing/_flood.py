"""Objects that grow from seeds until they meet or end."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Integer
from skimage.morphology import h_maxima
from skimage.segmentation import watershed

from medexp.post_processing._components import find_components, numbered


def flooded(
    height: Float[np.ndarray, "*spatial"],
    seeds: Integer[np.ndarray, "*spatial"],
    foreground: Bool[np.ndarray, "*spatial"],
    connectivity: str,
) -> Integer[np.ndarray, "*spatial"]:
    """Flood the foreground from seeds, from the highest places down; a connected part without a seed is one object.

    Args:
        height: Objects meet where it is lowest.
        seeds: Number of the object that starts at each voxel, 0 elsewhere; seeds outside the foreground are dropped.
        foreground: What becomes objects.
        connectivity: Of the voxels of an object: "faces" or "corners".

    Returns:
        Number of the object of each voxel, 0 outside the foreground.
    """
    markers = np.where(foreground, seeds, 0).astype(np.int32)
    parts = find_components(foreground.astype(np.uint8), connectivity)
    has_seed = np.zeros(len(parts.voxels), dtype=bool)
    has_seed[parts.numbers[markers > 0]] = True
    alone = foreground & ~has_seed[parts.numbers]
    markers[alone] = int(markers.max(initial=0)) + parts.numbers[alone].astype(np.int32)
    steps = 1 if connectivity == "faces" else foreground.ndim
    numbers: np.ndarray = watershed(-height, markers, mask=foreground, connectivity=steps)
    return numbers


def peaks_above(height: Float[np.ndarray, "*spatial"], h: float, connectivity: str) -> Integer[np.ndarray, "*spatial"]:
    """The peaks from which every way to a higher place descends by at least h, numbered from 1, 0 elsewhere.

    Ways lead over corners, whatever the connectivity: along a slanting ridge, each step over a face would descend.

    Source: the h-maxima of P. Soille, Morphological Image Analysis, Springer 2003, chapter 6.

    Args:
        height: The landscape, 0 where there is nothing.
        h: Least height of a peak above its saddle, above 0.
        connectivity: Of the voxels of an object, "faces" or "corners"; parts that it tells apart have no common peak.

    Returns:
        The peaks; a plateau is one of them.
    """
    cube = np.ones((3,) * height.ndim, dtype=np.uint8)
    is_top = h_maxima(height.astype(np.float64), float(h), footprint=cube) > 0
    parts = numbered((height > 0).astype(np.uint8), connectivity)
    return numbered(np.where(is_top, parts, 0), "corners")

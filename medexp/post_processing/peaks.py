"""Density to objects: one at each peak."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Integer
from scipy.signal import fftconvolve
from skimage.feature import peak_local_max

from medexp.core.errors import DataError, UsageError
from medexp.core.objects import Objects
from medexp.core.types import Kind, Prediction


class Peaks:
    """Make an object without extent at the peaks of each class's density.

    A peak is a voxel that none of its neighbours exceeds, and of two that lie closer than `min_distance_mm` the higher
    one. Its score is the number of objects that the density holds within `min_distance_mm` of it, up to 1; unlike the
    height of a peak this depends neither on the width of the Gaussians that were learned nor on the size of the voxels,
    and it is near 0 for noise in an image without objects.

    Source: detection at the local maxima of a density in W. Xie, J. A. Noble and A. Zisserman, Microscopy cell counting
    and detection with fully convolutional regression networks, Computer Methods in Biomechanics and Biomedical
    Engineering: Imaging & Visualization 6 (2018).

    Args:
        min_distance_mm: Smallest distance between two objects of a class; pixels where `Geometry.unit` is "px".
        min_score: Smallest score of an object, from 0 to 1.

    Raises:
        UsageError: A knob has a value that has no meaning.
    """

    takes = Kind.DENSITY
    gives = Kind.OBJECTS

    def __init__(self, *, min_distance_mm: float, min_score: float) -> None:
        if not 0 < min_distance_mm < math.inf:
            raise UsageError(f"peaks.min_distance_mm needs a finite value above 0, got {min_distance_mm}")
        if not 0 <= min_score <= 1:
            raise UsageError(f"peaks.min_score needs a value from 0 to 1, got {min_score}")
        self.min_distance_mm = min_distance_mm
        self.min_score = min_score

    def __call__(self, prediction: Prediction) -> Prediction:
        """Find the peaks.

        Args:
            prediction: With a density, a channel for each class.

        Returns:
            The prediction with objects, those of each class by falling height.

        Raises:
            DataError: There is no density of the classes, or it holds nan.
        """
        density = _density_of(prediction)
        spacing_mm = prediction.geometry.spacing_mm
        found = []
        for structure, channel in zip(prediction.classes, density, strict=True):
            peaks, scores = _find_peaks(channel, spacing_mm, self.min_distance_mm, self.min_score)
            centers = peaks + 0.5
            found.append((np.hstack([centers, centers]), np.full(len(peaks), structure.value), scores))
        boxes, labels, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return replace(prediction, objects=Objects.of(boxes, labels, scores))


def _density_of(prediction: Prediction) -> Float[np.ndarray, "classes *spatial"]:
    density = prediction.maps.get("density")
    where = f"peaks in case {prediction.case_id}"
    if density is None or len(density) != len(prediction.classes):
        raise DataError(f"{where} needs a density with a channel for each class; choose task=detection/density")
    if np.isnan(density.max()):
        raise DataError(f"{where}: the density holds nan; the model has diverged, see the loss in history.csv")
    return density


def _find_peaks(
    density: Float[np.ndarray, "*spatial"], spacing_mm: Sequence[float], min_distance_mm: float, min_score: float
) -> tuple[Integer[np.ndarray, "n dims"], Float[np.ndarray, "n"]]:
    """Voxels and scores of the peaks, the highest first."""
    held = fftconvolve(density, _ball(spacing_mm, min_distance_mm), mode="same")
    candidates = peak_local_max(density, min_distance=1, threshold_abs=0.0, exclude_border=False)
    scores = np.clip(held[tuple(candidates.T)], 0.0, 1.0)
    places_mm = candidates * np.array(spacing_mm)
    kept: list[int] = []
    for index in np.flatnonzero(scores >= min_score):
        distances_mm = np.linalg.norm(places_mm[kept] - places_mm[index], axis=1)
        if (distances_mm >= min_distance_mm).all():
            kept.append(int(index))
    return candidates[kept], scores[kept]


def _ball(spacing_mm: Sequence[float], radius_mm: float) -> np.ndarray:
    """Which voxels around one have their centre within a radius of its own."""
    reach = [int(radius_mm / spacing) for spacing in spacing_mm]
    offsets_mm = np.meshgrid(
        *(spacing * np.arange(-n, n + 1) for n, spacing in zip(reach, spacing_mm, strict=True)), indexing="ij"
    )
    inside: np.ndarray = sum(offset**2 for offset in offsets_mm) <= radius_mm**2 * (1 + 1e-9)
    return inside

"""Instances that touch, divided at their borders."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Integer
from skimage.segmentation import watershed

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Kind, Prediction
from medexp.post_processing._components import find_components, voxels_of
from medexp.post_processing._instances import check_exclusive, mean_inside, with_instances
from medexp.post_processing._knobs import check_connectivity, check_volume
from medexp.post_processing._masks import probabilities_of


class BorderWatershed:
    """Grow objects from their insides, where a class is likely and a border is not, until they meet or end.

    Seeds are the connected parts of the voxels with a foreground probability (that of all classes together) of at least
    `seed_threshold` and a border probability below `border_threshold`. From them a watershed floods the foreground, the
    voxels with a probability of at least `foreground_threshold`, in the order of foreground times no border, so that
    objects meet where a border is most likely. A part of the foreground without a seed, as of an object too thin to
    have an inside, is one object.

    Source: the classes inside, border and background of J. C. Caicedo et al., Evaluation of deep learning strategies
    for nucleus segmentation in fluorescence images, Cytometry A 95 (2019); flooding instead of dilation gives the
    border's voxels back to the objects.

    An object's class is the one with the highest mean probability inside it, and this mean is its score.

    Args:
        foreground_threshold: Probability from which on a voxel belongs to an object, above 0 and up to 1.
        seed_threshold: Foreground probability from which on a voxel may belong to a seed; not below the former.
        border_threshold: Border probability below which a voxel may belong to a seed, above 0 and up to 1.
        connectivity: Of the voxels of a seed and of an object: "faces", neighbours share a face, or "corners", they may
            share a corner only.
        min_seed_mm3: Smallest seed, in mm3; in 2D in mm2, and in pixels where `Geometry.unit` is "px".
        min_volume_mm3: Smallest object that stays, in the same unit.

    Raises:
        UsageError: A knob has a value that is not listed.
    """

    takes = Kind.BORDERS
    gives = Kind.INSTANCES

    def __init__(
        self,
        *,
        foreground_threshold: float = 0.5,
        seed_threshold: float = 0.5,
        border_threshold: float = 0.5,
        connectivity: str = "faces",
        min_seed_mm3: float = 0.0,
        min_volume_mm3: float = 0.0,
    ) -> None:
        thresholds = {"foreground": foreground_threshold, "seed": seed_threshold, "border": border_threshold}
        for name, threshold in thresholds.items():
            if not 0 < threshold <= 1:
                raise UsageError(
                    f"border_watershed.{name}_threshold needs a probability above 0 and up to 1, got {threshold}"
                )
        if seed_threshold < foreground_threshold:
            raise UsageError(
                f"border_watershed.seed_threshold needs at least foreground_threshold={foreground_threshold}, got "
                f"{seed_threshold}"
            )
        self.foreground_threshold = foreground_threshold
        self.seed_threshold = seed_threshold
        self.border_threshold = border_threshold
        self.connectivity = check_connectivity(connectivity, "border_watershed")
        self.min_seed_mm3 = check_volume(min_seed_mm3, "border_watershed.min_seed_mm3")
        self.min_volume_mm3 = check_volume(min_volume_mm3, "border_watershed.min_volume_mm3")

    def __call__(self, prediction: Prediction) -> Prediction:
        """Make the instances.

        Args:
            prediction: Exclusive classes with probabilities of background and classes, and a map "border" of
                probabilities with one channel.

        Returns:
            The prediction with instances, objects, and a mask that shows them.

        Raises:
            UsageError: There are no probabilities, or the classes overlap.
            DataError: There is no border map of one channel, or a map holds nan.
        """
        check_exclusive(prediction, "border_watershed")
        soft = probabilities_of(prediction, 1 + len(prediction.classes), "border_watershed")
        border = _border_of(prediction)
        likely = soft[1:].sum(axis=0)
        foreground = likely >= self.foreground_threshold
        inside = (likely >= self.seed_threshold) & (border < self.border_threshold)
        markers = self._markers(inside, foreground, voxels_of(self.min_seed_mm3, prediction.geometry))
        steps = 1 if self.connectivity == "faces" else foreground.ndim
        numbers = watershed(-likely * (1 - border), markers, mask=foreground, connectivity=steps)
        values = _likely_values(prediction, numbers, voxels_of(self.min_volume_mm3, prediction.geometry))
        return with_instances(prediction, numbers, values, "border_watershed")

    def _markers(
        self, inside: Bool[np.ndarray, "*spatial"], foreground: Bool[np.ndarray, "*spatial"], min_voxels: int
    ) -> Integer[np.ndarray, "*spatial"]:
        """Numbers of the objects where the flood starts, 0 elsewhere."""
        seeds = find_components(inside.astype(np.uint8), self.connectivity)
        markers = np.where((seeds.voxels >= min_voxels)[seeds.numbers], seeds.numbers, 0).astype(np.int32)
        parts = find_components(foreground.astype(np.uint8), self.connectivity)
        has_seed = np.zeros(len(parts.voxels), dtype=bool)
        has_seed[parts.numbers[markers > 0]] = True
        alone = foreground & ~has_seed[parts.numbers]
        markers[alone] = len(seeds.voxels) + parts.numbers[alone].astype(np.int32)
        return markers


def _border_of(prediction: Prediction) -> Float[np.ndarray, "*spatial"]:
    where, border = f"border_watershed in case {prediction.case_id}", prediction.maps.get("border")
    if border is None or len(border) != 1:
        got = "none" if border is None else f"{len(border)} channels"
        raise DataError(f"{where} takes a border map of one channel, got {got}; choose task=instance/boundary")
    if np.isnan(border.max()):
        raise DataError(f"{where}: the border map holds nan; the model has diverged, see the loss in history.csv")
    return border[0]


def _likely_values(prediction: Prediction, numbers: Integer[np.ndarray, "*spatial"], min_voxels: int) -> dict[int, int]:
    """The class value of each object that is large enough, by its number."""
    assert prediction.probabilities is not None
    means = mean_inside(prediction.probabilities[1:], numbers)
    voxels = np.bincount(numbers.ravel())
    kept = [int(number) for number in np.flatnonzero(voxels >= max(min_voxels, 1)) if number > 0]
    return {number: prediction.classes[int(np.argmax(means[:, number]))].value for number in kept}

"""Instances that touch, divided at their borders."""

from __future__ import annotations

import numpy as np

from medexp.core.errors import UsageError
from medexp.core.types import Kind, Prediction
from medexp.post_processing._components import find_components, voxels_of
from medexp.post_processing._flood import flooded
from medexp.post_processing._instances import check_exclusive, likely_values, with_instances
from medexp.post_processing._knobs import check_connectivity, check_probability, check_volume
from medexp.post_processing._masks import map_of, probabilities_of

_REMEDY = "choose task=instance/parallel task/representation=boundary"


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
            check_probability(threshold, f"border_watershed.{name}_threshold")
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
        border = map_of(prediction, "border", 1, "border_watershed", _REMEDY)[0]
        likely = soft[1:].sum(axis=0)
        foreground = likely >= self.foreground_threshold
        inside = (likely >= self.seed_threshold) & (border < self.border_threshold)
        seeds = find_components(inside.astype(np.uint8), self.connectivity)
        large = seeds.voxels >= voxels_of(self.min_seed_mm3, prediction.geometry)
        markers = np.where(large[seeds.numbers], seeds.numbers, 0)
        numbers = flooded(likely * (1 - border), markers, foreground, self.connectivity)
        values = likely_values(prediction, numbers, voxels_of(self.min_volume_mm3, prediction.geometry))
        return with_instances(prediction, numbers, values, "border_watershed")

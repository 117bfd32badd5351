"""Instances from a learned map that is highest in the middle of each object."""

from __future__ import annotations

import numpy as np

from medexp.core.types import Kind, Prediction
from medexp.post_processing._components import voxels_of
from medexp.post_processing._flood import flooded, peaks_above
from medexp.post_processing._instances import foreground_of, likely_values, with_instances
from medexp.post_processing._knobs import check_connectivity, check_positive, check_probability, check_volume
from medexp.post_processing._masks import map_of

_REMEDY = "choose task=instance/parallel task/representation=distance"


class PeakWatershed:
    """Grow objects from the peaks of a learned distance map over the foreground until they meet or end.

    A peak is a seed where every way from it to a higher one descends by at least `h`. From the seeds a watershed floods
    the foreground, the voxels whose classes together are at least as likely as `foreground_threshold`, from high places
    to low ones. A part of the foreground without a peak is one object. An object's class is the one with the highest
    mean probability inside it, and this mean is its score.

    Source: P. Naylor et al., Segmentation of nuclei in histopathology images by deep regression of the distance map,
    IEEE Transactions on Medical Imaging 38 (2019).

    Args:
        foreground_threshold: Probability from which on a voxel belongs to an object, above 0 and up to 1.
        h: Least height of a peak above its saddle, where an object's own peak is 1.
        connectivity: Of the voxels of an object: "faces", neighbours share a face, or "corners", they may share a
            corner only.
        min_volume_mm3: Smallest object that stays, in mm3; in 2D in mm2, and in pixels where `Geometry.unit` is "px".

    Raises:
        UsageError: A knob has a value that is not listed.
    """

    takes = Kind.DISTANCES
    gives = Kind.INSTANCES

    def __init__(
        self,
        *,
        foreground_threshold: float = 0.5,
        h: float = 0.1,
        connectivity: str = "faces",
        min_volume_mm3: float = 0.0,
    ) -> None:
        self.foreground_threshold = check_probability(foreground_threshold, "peak_watershed.foreground_threshold")
        self.h = check_positive(h, "peak_watershed.h")
        self.connectivity = check_connectivity(connectivity, "peak_watershed")
        self.min_volume_mm3 = check_volume(min_volume_mm3, "peak_watershed.min_volume_mm3")

    def __call__(self, prediction: Prediction) -> Prediction:
        """Make the instances.

        Args:
            prediction: Exclusive classes with probabilities of background and classes, and a map "distance".

        Returns:
            The prediction with instances, objects, and a mask that shows them.

        Raises:
            UsageError: There are no probabilities, or the classes overlap.
            DataError: There is no such map of one channel, or a map holds nan.
        """
        foreground = foreground_of(prediction, self.foreground_threshold, "peak_watershed")
        height = np.where(foreground, map_of(prediction, "distance", 1, "peak_watershed", _REMEDY)[0], 0)
        numbers = flooded(height, peaks_above(height, self.h, self.connectivity), foreground, self.connectivity)
        values = likely_values(prediction, numbers, voxels_of(self.min_volume_mm3, prediction.geometry))
        return with_instances(prediction, numbers, values, "peak_watershed")

"""Instances from learned offsets: they fall where one object ends and another begins."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import gaussian_filter

from medexp.core.types import Kind, Prediction
from medexp.post_processing._components import find_components, voxels_of
from medexp.post_processing._flood import flooded
from medexp.post_processing._instances import foreground_of, likely_values, with_instances
from medexp.post_processing._knobs import check_connectivity, check_positive, check_probability, check_volume
from medexp.post_processing._masks import map_of

_REMEDY = "choose task=instance/parallel task/representation=hover"
_PERCENTILE = 98  # of the offsets' absolute values in the foreground, taken for 1


class HoverWatershed:
    """Grow objects from where the offsets do not fall, over the foreground, until they meet where they fall most.

    The foreground are the voxels whose classes together are at least as likely as `foreground_threshold`. Each map of
    offsets is scaled to a largest value of 1 there, since on another grid than the network's it is stretched, and is 0
    outside. Its derivative along its own axis, smoothed with a Gaussian, tells how far it falls: the edge at a voxel is
    the sum of these falls, as a share of that of a step from 1 to -1. Seeds are the connected parts of the foreground
    whose edge is below `edge_threshold`; from them a watershed floods the foreground, small edges first. A part of the
    foreground without a seed is one object. An object's class is the one with the highest mean probability inside it,
    and this mean is its score.

    Source: S. Graham et al., HoVer-Net: simultaneous segmentation and classification of nuclei in multi-tissue
    histology images, Medical Image Analysis 58 (2019), section 3.2. There the edge is the larger of both falls, which
    is small where a border runs at a slant: the sum is the same in each direction. The derivative there is a Sobel
    kernel of 21 pixels, which smooths as a Gaussian of 2.2 pixels, scaled by its smallest and largest value in the
    image; here it has a meaning of its own, so that a threshold does not depend on what else lies in the image.

    Args:
        foreground_threshold: Probability from which on a voxel belongs to an object, above 0 and up to 1.
        sigma_px: Standard deviation of the smoothing.
        edge_threshold: Edge from which on a voxel is no seed, above 0 and up to 1.
        connectivity: Of the voxels of a seed and of an object: "faces", neighbours share a face, or "corners", they may
            share a corner only.
        min_seed_mm3: Smallest seed, in mm3; in 2D in mm2, and in pixels where `Geometry.unit` is "px".
        min_volume_mm3: Smallest object that stays, in the same unit.

    Raises:
        UsageError: A knob has a value that is not listed.
    """

    takes = Kind.OFFSETS
    gives = Kind.INSTANCES

    def __init__(
        self,
        *,
        foreground_threshold: float = 0.5,
        sigma_px: float = 1.0,
        edge_threshold: float = 0.3,
        connectivity: str = "faces",
        min_seed_mm3: float = 0.0,
        min_volume_mm3: float = 0.0,
    ) -> None:
        self.foreground_threshold = check_probability(foreground_threshold, "hover_watershed.foreground_threshold")
        self.sigma_px = check_positive(sigma_px, "hover_watershed.sigma_px")
        self.edge_threshold = check_probability(edge_threshold, "hover_watershed.edge_threshold")
        self.connectivity = check_connectivity(connectivity, "hover_watershed")
        self.min_seed_mm3 = check_volume(min_seed_mm3, "hover_watershed.min_seed_mm3")
        self.min_volume_mm3 = check_volume(min_volume_mm3, "hover_watershed.min_volume_mm3")

    def __call__(self, prediction: Prediction) -> Prediction:
        """Make the instances.

        Args:
            prediction: Exclusive classes with probabilities of background and classes, and a map "hover" whose channel
                i is the offset along axis i.

        Returns:
            The prediction with instances, objects, and a mask that shows them.

        Raises:
            UsageError: There are no probabilities, or the classes overlap.
            DataError: There is no such map of as many channels as axes, or a map holds nan.
        """
        foreground = foreground_of(prediction, self.foreground_threshold, "hover_watershed")
        offsets = map_of(prediction, "hover", foreground.ndim, "hover_watershed", _REMEDY)
        edge = _edge(offsets, foreground, self.sigma_px)
        seeds = find_components((foreground & (edge < self.edge_threshold)).astype(np.uint8), self.connectivity)
        large = seeds.voxels >= voxels_of(self.min_seed_mm3, prediction.geometry)
        markers = np.where(large[seeds.numbers], seeds.numbers, 0)
        numbers = flooded(1 - edge, markers, foreground, self.connectivity)
        values = likely_values(prediction, numbers, voxels_of(self.min_volume_mm3, prediction.geometry))
        return with_instances(prediction, numbers, values, "hover_watershed")


def _edge(
    offsets: Float[np.ndarray, "dims *spatial"], foreground: Bool[np.ndarray, "*spatial"], sigma_px: float
) -> Float[np.ndarray, "*spatial"]:
    """How far the offsets fall at each voxel, within [0, 1]: 1 where one falls from 1 to -1."""
    edge = np.zeros(foreground.shape)
    of_a_step = 2 / (sigma_px * math.sqrt(2 * math.pi))
    for axis, offset in enumerate(offsets.astype(np.float64)):
        largest = np.percentile(np.abs(offset[foreground]), _PERCENTILE) if foreground.any() else 0.0
        if largest > 0:
            scaled = np.where(foreground, np.clip(offset / largest, -1, 1), 0)
            order = [int(each == axis) for each in range(foreground.ndim)]
            slope = gaussian_filter(scaled, sigma_px, order=order, mode="nearest")
            edge += np.maximum(-slope / of_a_step, 0)
    return np.minimum(edge, 1)

"""Instances from learned flows: voxels whose ways end at the same place."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy.ndimage import map_coordinates, maximum_filter
from scipy.spatial import cKDTree

from medexp.core.heat_flow import heat_flows
from medexp.core.types import Kind, Prediction
from medexp.post_processing._components import voxels_of
from medexp.post_processing._instances import foreground_of, likely_values, mean_inside, with_instances
from medexp.post_processing._knobs import check_count, check_positive, check_probability, check_volume
from medexp.post_processing._masks import map_of

_REMEDY = "choose task=instance/parallel task/representation=flow"


class FlowTracking:
    """Follow the flow from each voxel of the foreground; the voxels whose ways end at one peak are an object.

    The foreground are the voxels whose classes together are at least as likely as `foreground_threshold`; outside the
    flow is 0. It is scaled so that its median length inside is 1, since on another grid than the network's it is
    stretched, and no step is longer than a voxel. A voxel in which at least `min_ends` ways end, and more than in any
    other within `peak_radius_px`, is a peak; a way belongs to the peak that is nearest to its end. An object's class is
    the one with the highest mean probability inside it, and this mean is its score.

    With `max_flow_error` the flow of each object that was found is computed anew, and the object is left out where the
    mean of the squared difference to the learned one is larger. This means something only where the network's grid is
    the image's, but for turns, flips and one factor for all axes.

    Source: C. Stringer et al., Cellpose: a generalist algorithm for cellular segmentation, Nature Methods 18 (2021).
    There the peaks grow over places where ways end; here what is near belongs to them.

    Args:
        foreground_threshold: Probability from which on a voxel belongs to an object, above 0 and up to 1.
        steps: Number of steps along the flow.
        peak_radius_px: Half the window, less half a voxel, in which a peak has the most ends.
        min_ends: Least number of ways that end in a peak.
        reach_px: Distance from a peak up to which an end belongs to it.
        max_flow_error: Largest mean squared difference of flows, or None for any; 0.4 in the source, in 2D.
        min_volume_mm3: Smallest object that stays, in mm3; in 2D in mm2, and in pixels where `Geometry.unit` is "px".

    Raises:
        UsageError: A knob has a value that is not listed.
    """

    takes = Kind.FLOWS
    gives = Kind.INSTANCES

    def __init__(
        self,
        *,
        foreground_threshold: float = 0.5,
        steps: int = 200,
        peak_radius_px: int = 2,
        min_ends: int = 10,
        reach_px: float = 5.0,
        max_flow_error: float | None = None,
        min_volume_mm3: float = 0.0,
    ) -> None:
        self.foreground_threshold = check_probability(foreground_threshold, "flow_tracking.foreground_threshold")
        self.steps = check_count(steps, "flow_tracking.steps")
        self.peak_radius_px = check_count(peak_radius_px, "flow_tracking.peak_radius_px")
        self.min_ends = check_count(min_ends, "flow_tracking.min_ends")
        self.reach_px = check_positive(reach_px, "flow_tracking.reach_px")
        if max_flow_error is not None:
            check_positive(max_flow_error, "flow_tracking.max_flow_error")
        self.max_flow_error = max_flow_error
        self.min_volume_mm3 = check_volume(min_volume_mm3, "flow_tracking.min_volume_mm3")

    def __call__(self, prediction: Prediction) -> Prediction:
        """Make the instances.

        Args:
            prediction: Exclusive classes with probabilities of background and classes, and a map "flow" whose channel i
                is the component along axis i.

        Returns:
            The prediction with instances, objects, and a mask that shows them.

        Raises:
            UsageError: There are no probabilities, or the classes overlap.
            DataError: There is no such map of as many channels as axes, or a map holds nan.
        """
        foreground = foreground_of(prediction, self.foreground_threshold, "flow_tracking")
        flow = _evened(map_of(prediction, "flow", foreground.ndim, "flow_tracking", _REMEDY), foreground)
        ends = _ends(flow, np.argwhere(foreground), self.steps)
        numbers = np.zeros(foreground.shape, dtype=np.int32)
        numbers[foreground] = _nearest_peak(ends, foreground.shape, self.peak_radius_px, self.min_ends, self.reach_px)
        if self.max_flow_error is not None:
            error = mean_inside(((flow - heat_flows(numbers)) ** 2).sum(axis=0, keepdims=True), numbers)[0]
            numbers = np.where(error[numbers] <= self.max_flow_error, numbers, 0)
        values = likely_values(prediction, numbers, voxels_of(self.min_volume_mm3, prediction.geometry))
        return with_instances(prediction, numbers, values, "flow_tracking")


def _evened(
    flow: Float[np.ndarray, "dims *spatial"], foreground: Bool[np.ndarray, "*spatial"]
) -> Float[np.ndarray, "dims *spatial"]:
    """The flow with a median length of 1 in the foreground and none above 1, and 0 outside."""
    inside = np.where(foreground, flow, 0)
    length = np.linalg.norm(inside, axis=0)
    usual = np.median(length[foreground]) if foreground.any() else 0.0
    longest = np.maximum(length, usual)
    return np.divide(inside, longest, out=np.zeros_like(inside), where=longest > 0)


def _ends(
    flow: Float[np.ndarray, "dims *spatial"], starts: Integer[np.ndarray, "voxels dims"], steps: int
) -> Float[np.ndarray, "voxels dims"]:
    """Where the ways along the flow end, by Euler steps with linear interpolation; they stay in the image."""
    places = starts.T.astype(np.float64)
    last = np.array(flow.shape[1:])[:, None] - 1.0
    for _ in range(steps):
        step = np.stack([map_coordinates(component, places, order=1, mode="nearest") for component in flow])
        places = np.clip(places + step, 0, last)
    return places.T


def _nearest_peak(
    ends: Float[np.ndarray, "voxels dims"], shape: tuple[int, ...], radius_px: int, min_ends: int, reach_px: float
) -> Integer[np.ndarray, "voxels"]:
    """Number of the peak that each end belongs to, from 1; 0 where none is near."""
    count = np.bincount(np.ravel_multi_index(tuple(np.rint(ends).astype(np.int64).T), shape), minlength=np.prod(shape))
    order = count - np.arange(len(count)) / (2 * len(count))  # of equal voxels the first is higher
    order = order.reshape(shape)
    peaks = np.argwhere(
        (maximum_filter(order, size=2 * radius_px + 1, mode="constant", cval=-1.0) == order)
        & (count.reshape(shape) >= min_ends)
    )
    if not len(peaks):
        return np.zeros(len(ends), dtype=np.int32)
    _, nearest = cKDTree(peaks).query(ends, distance_upper_bound=np.nextafter(reach_px, np.inf))
    return np.where(nearest < len(peaks), nearest + 1, 0).astype(np.int32)

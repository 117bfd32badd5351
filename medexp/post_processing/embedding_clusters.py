"""Instances from learned embeddings: clusters of vectors."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Integer

from medexp.core.types import Kind, Prediction
from medexp.post_processing._components import voxels_of
from medexp.post_processing._instances import foreground_of, likely_values, with_instances
from medexp.post_processing._knobs import check_count, check_positive, check_probability, check_volume
from medexp.post_processing._masks import map_of

_REMEDY = "choose task=instance/parallel task/representation=embedding"
_MAX_SHIFTS = 20
_SHIFTED = 1e-3  # of the bandwidth; a centre that moves less has arrived


class EmbeddingClusters:
    """Take clusters of a learned embedding for objects, one after the other, by mean shift.

    Of the voxels of the foreground that have no object yet, the one around which the embedding is smoothest is taken;
    its vector moves to the mean of those within `bandwidth` until it stays, and what lies within `bandwidth` of it is
    an object. In the source a voxel is taken at random; the smoothest one lies inside an object and gives the same
    result each time. The voxels of clusters below `min_voxels`, as they arise between objects, go to the object whose
    centre is nearest in the embedding. An object need not be connected. Its class is the one with the highest mean
    probability inside it, and this mean is its score.

    Source: B. De Brabandere, D. Neven and L. Van Gool, Semantic instance segmentation with a discriminative loss
    function, arXiv 1708.02551 (2017), section 3.3. Where its loss is zero, vectors of an object lie within 2 delta_var
    of each other and those of two objects at least 2 (delta_dist - delta_var) apart.

    Args:
        foreground_threshold: Probability from which on a voxel belongs to an object, above 0 and up to 1.
        bandwidth: Radius of a cluster in the embedding.
        min_voxels: Smallest cluster that is an object.
        max_objects: Clusters that are looked for, which bounds the time for an embedding that has learned nothing.
        min_volume_mm3: Smallest object that stays, in mm3; in 2D in mm2, and in pixels where `Geometry.unit` is "px".

    Raises:
        UsageError: A knob has a value that is not listed.
    """

    takes = Kind.EMBEDDINGS
    gives = Kind.INSTANCES

    def __init__(
        self,
        *,
        foreground_threshold: float = 0.5,
        bandwidth: float = 1.0,
        min_voxels: int = 10,
        max_objects: int = 1000,
        min_volume_mm3: float = 0.0,
    ) -> None:
        self.foreground_threshold = check_probability(foreground_threshold, "embedding_clusters.foreground_threshold")
        self.bandwidth = check_positive(bandwidth, "embedding_clusters.bandwidth")
        self.min_voxels = check_count(min_voxels, "embedding_clusters.min_voxels")
        self.max_objects = check_count(max_objects, "embedding_clusters.max_objects")
        self.min_volume_mm3 = check_volume(min_volume_mm3, "embedding_clusters.min_volume_mm3")

    def __call__(self, prediction: Prediction) -> Prediction:
        """Make the instances.

        Args:
            prediction: Exclusive classes with probabilities of background and classes, and a map "embedding".

        Returns:
            The prediction with instances, objects, and a mask that shows them.

        Raises:
            UsageError: There are no probabilities, or the classes overlap.
            DataError: There is no such map, or a map holds nan.
        """
        foreground = foreground_of(prediction, self.foreground_threshold, "embedding_clusters")
        embedding = map_of(prediction, "embedding", None, "embedding_clusters", _REMEDY)
        order = np.argsort(_roughness(embedding, foreground), kind="stable")
        found = _clusters(embedding[:, foreground].T, order, self.bandwidth, self.min_voxels, self.max_objects)
        numbers = np.zeros(foreground.shape, dtype=np.int32)
        numbers[foreground] = found
        values = likely_values(prediction, numbers, voxels_of(self.min_volume_mm3, prediction.geometry))
        return with_instances(prediction, numbers, values, "embedding_clusters")


def _roughness(
    embedding: Float[np.ndarray, "n_dims *spatial"], foreground: Bool[np.ndarray, "*spatial"]
) -> Float[np.ndarray, "voxels"]:
    """Sum of the squared differences of each voxel of the foreground to its neighbours along the axes."""
    rough = np.zeros(foreground.shape, dtype=np.float32)
    for axis in range(foreground.ndim):
        squared = (np.diff(embedding, axis=1 + axis) ** 2).sum(axis=0)
        along, apart = np.moveaxis(rough, axis, 0), np.moveaxis(squared, axis, 0)  # views
        along[:-1] += apart
        along[1:] += apart
    return rough[foreground]


def _clusters(
    vectors: Float[np.ndarray, "voxels n_dims"],
    order: Integer[np.ndarray, "voxels"],
    bandwidth: float,
    min_voxels: int,
    max_objects: int,
) -> Integer[np.ndarray, "voxels"]:
    """Number of the cluster of each vector, from 1; 0 for all where no cluster is large enough."""
    numbers = np.zeros(len(vectors), dtype=np.int32)
    left, centres = order, []
    for _ in range(max_objects):
        if not len(left):
            break
        centre, inside = _shifted(vectors[left], bandwidth)
        if inside.sum() >= min_voxels:
            centres.append(centre)
            numbers[left[inside]] = len(centres)
        left = left[~inside]
    strays = np.flatnonzero(numbers == 0)
    if centres and len(strays):
        numbers[strays] = 1 + _nearest(vectors[strays], np.stack(centres))
    return numbers


def _shifted(
    vectors: Float[np.ndarray, "left n_dims"], bandwidth: float
) -> tuple[Float[np.ndarray, "n_dims"], Bool[np.ndarray, "left"]]:
    """Where the first vector is led by mean shift, and which lie within the bandwidth of it; the first always does."""
    centre = vectors[0]
    for _ in range(_MAX_SHIFTS):
        inside = ((vectors - centre) ** 2).sum(axis=1) <= bandwidth**2
        mean = vectors[inside].mean(axis=0)
        arrived = np.linalg.norm(mean - centre) <= _SHIFTED * bandwidth
        centre = mean
        if arrived:
            break
    inside = ((vectors - centre) ** 2).sum(axis=1) <= bandwidth**2
    inside[0] = True
    return centre, inside


def _nearest(
    vectors: Float[np.ndarray, "strays n_dims"], centres: Float[np.ndarray, "centres n_dims"]
) -> Integer[np.ndarray, "strays"]:
    """Index of the nearest centre of each vector."""
    scores = vectors @ centres.T - (centres**2).sum(axis=1) / 2  # |v - c|^2 without |v|^2, halved and negated
    nearest: np.ndarray = scores.argmax(axis=1)
    return nearest

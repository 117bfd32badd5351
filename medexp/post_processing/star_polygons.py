"""Instances from star-convex polygons and polyhedra that a network draws around each voxel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Integer

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Kind, Prediction
from medexp.post_processing._components import voxels_of
from medexp.post_processing._instances import check_exclusive, likely_values, with_instances
from medexp.post_processing._knobs import check_probability, check_volume
from medexp.post_processing._masks import map_of, probabilities_of
from medexp.post_processing._stars import Stars

_REMEDY = "choose task=instance/parallel task/representation=stardist"


class StarPolygons:
    """Keep the surest of the stars that overlap, and draw them, surer ones on top.

    A star is a polygon in 2D and a polyhedron in 3D around a voxel whose object probability is at least
    `probability_threshold`; its corners are the ends of the rays, and it covers the voxels whose centre lies in it.
    From the surest star on, each that is left drops those that overlap with it by more than `nms_threshold`: the voxels
    in common as a share of the smaller star's voxels, or of all voxels of both.

    An object's class is the one with the highest mean probability inside it, and its score is the object probability
    in its star's centre.

    Sources: U. Schmidt et al., Cell detection with star-convex polygons, MICCAI 2018; M. Weigert et al., Star-convex
    polyhedra for 3D object detection and segmentation in microscopy, WACV 2020. Their program takes the share of the
    smaller star, and areas of polygons where this step counts voxels (in large stars every second, third, ... one).

    Args:
        probability_threshold: Object probability from which on a voxel has a star, above 0 and up to 1.
        nms_threshold: Overlap above which the less sure of two stars is dropped, above 0 and up to 1.
        overlap: "smaller", or "union" for the intersection over union.
        min_volume_mm3: Smallest star, and smallest object that stays, in mm3; in 2D in mm2, and in pixels where
            `Geometry.unit` is "px".

    Raises:
        UsageError: A knob has a value that is not listed.
    """

    takes = Kind.STARS
    gives = Kind.INSTANCES

    def __init__(
        self,
        *,
        probability_threshold: float = 0.5,
        nms_threshold: float = 0.4,
        overlap: str = "smaller",
        min_volume_mm3: float = 0.0,
    ) -> None:
        self.probability_threshold = check_probability(probability_threshold, "star_polygons.probability_threshold")
        self.nms_threshold = check_probability(nms_threshold, "star_polygons.nms_threshold")
        if overlap not in ("smaller", "union"):
            raise UsageError(f"star_polygons.overlap needs smaller or union, got {overlap!r}")
        self.overlap = overlap
        self.min_volume_mm3 = check_volume(min_volume_mm3, "star_polygons.min_volume_mm3")

    def __call__(self, prediction: Prediction) -> Prediction:
        """Make the instances.

        Args:
            prediction: Exclusive classes with probabilities of background and classes, a map "star_probability" of one
                channel, and a map "star_distances" with a direction for each channel.

        Returns:
            The prediction with instances, objects, and a mask that shows them.

        Raises:
            UsageError: There are no probabilities, or the classes overlap.
            DataError: A map or its directions are absent, or a map holds nan.
        """
        check_exclusive(prediction, "star_polygons")
        probabilities_of(prediction, 1 + len(prediction.classes), "star_polygons")
        probability = map_of(prediction, "star_probability", 1, "star_polygons", _REMEDY)[0]
        min_voxels = voxels_of(self.min_volume_mm3, prediction.geometry)
        stars = _stars_of(prediction, probability >= self.probability_threshold, probability)
        kept = self._survivors(stars, min_voxels)
        numbers = np.zeros(stars.shape, dtype=np.int32)
        for number, star in reversed(list(enumerate(kept, start=1))):
            numbers[tuple(kept[star].T)] = number
        values = likely_values(prediction, numbers, min_voxels)
        found = with_instances(prediction, numbers, values, "star_polygons")
        assert found.objects is not None
        centres = stars.centres[list(kept)][np.array(list(values), dtype=np.int64) - 1]
        scores = probability[tuple(centres.T)].astype(np.float64)
        return replace(found, objects=replace(found.objects, scores=scores))

    def _survivors(self, stars: Stars, min_voxels: int) -> dict[int, Integer[np.ndarray, "_ dims"]]:
        """The stars that are left, the surest first, with the voxels that each covers."""
        left = np.full(stars.shape, -1, dtype=np.int64)  # the star at each voxel that is still to be judged
        large = np.flatnonzero(stars.voxels >= min_voxels)
        left[tuple(stars.centres[large].T)] = large
        kept = {}
        for star in large.tolist():
            centre = tuple(stars.centres[star])
            if left[centre] < 0:
                continue
            kept[star] = stars.covered(star)
            left[centre] = -1
            others = _near(stars, star, left)
            dropped = others[self._overlaps(stars, star, kept[star], others) > self.nms_threshold]
            left[tuple(stars.centres[dropped].T)] = -1
        return kept

    def _overlaps(
        self, stars: Stars, star: int, covered: Integer[np.ndarray, "v dims"], others: Integer[np.ndarray, "m"]
    ) -> Float[np.ndarray, "m"]:
        """The overlap of a star, which covers some voxels, with others."""
        shared = stars.shared(others, covered)
        if self.overlap == "smaller":
            overlaps: np.ndarray = shared / np.minimum(stars.voxels[star], stars.voxels[others])
        else:
            overlaps = shared / (stars.voxels[star] + stars.voxels[others] - shared)
        return overlaps


def _stars_of(
    prediction: Prediction, candidates: Bool[np.ndarray, "*spatial"], probability: Float[np.ndarray, "*spatial"]
) -> Stars:
    """The stars around some voxels, the surest first; equally sure ones in the order of the array."""
    distances = map_of(prediction, "star_distances", None, "star_polygons", _REMEDY)
    directions = prediction.directions.get("star_distances")
    if directions is None or len(directions) != len(distances):
        got = "none" if directions is None else len(directions)
        raise DataError(
            f"star_polygons in case {prediction.case_id} takes a direction for each of {len(distances)} channels of "
            f"'star_distances', got {got}; {_REMEDY}"
        )
    centres = np.argwhere(candidates)
    centres = centres[np.argsort(-probability[candidates], kind="stable")]
    return Stars(centres, distances[(slice(None), *centres.T)].T, directions, probability.shape)


def _near(stars: Stars, star: int, left: Integer[np.ndarray, "*spatial"]) -> Integer[np.ndarray, "m"]:
    """The stars to be judged whose enclosing ball meets that of a star."""
    centre, reach_px = stars.centres[star], stars.reach_px[star]
    farthest = int(reach_px + stars.reach_px.max()) + 1
    around = left[tuple(slice(max(0, at - farthest), at + farthest + 1) for at in centre)]
    others = around[around >= 0]
    away_px = np.linalg.norm(stars.centres[others] - centre, axis=1)
    return others[away_px <= reach_px + stars.reach_px[others]]

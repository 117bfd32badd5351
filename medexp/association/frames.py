"""Instances of the frames of a sequence, linked to tracks with gaps, divisions, appearances and disappearances."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from medexp.association._knobs import check_count, check_length, check_part
from medexp.association._paths import tracks_along
from medexp.core.errors import UsageError
from medexp.core.overlaps import overlaps
from medexp.core.tracks import Sequence, TrackedSequence

COSTS = ("distance", "overlap")

# What no link costs, over the dearest link that is allowed; of Jaqaman et al.
_ALTERNATIVE = 1.05


class FrameLinker:
    """Links instances by linear assignment: those of consecutive frames first, then ends and beginnings of the paths.

    The links that are chosen have the least sum of costs among all ways to link one to one, where an allowed link costs
    less than none. With cost "distance" a link costs the square of the distance of the two centres; with "overlap" 1
    minus the intersection over union of the two outlines. In the second step an end is linked with a beginning behind a
    gap, and a beginning with an object of the frame before, which divides then; with cost "overlap" that costs 1 minus
    the part of the daughter that the mother's outline covers.

    A track is in each of its frames: where an object divides or is missing from frames, its track ends, and tracks
    begin whose parent it is, as the Cell Tracking Challenge has it.

    Source: K. Jaqaman et al., Robust single-particle tracking in live-cell time-lapse sequences, Nature Methods 5
    (2008); the library is laptrack.

    Args:
        cost: "distance" or "overlap".
        max_distance_mm: Largest distance of the centres of an object in two frames that follow each other, or across a
            gap; pixels where the frames have no physical scale. Of no use with cost "overlap".
        min_overlap: Smallest intersection over union of the outlines of an object, and smallest part of a daughter that
            her mother's outline covers. Of no use with cost "distance".
        gap_frames: How many frames an object may be missing from in a row.
        allow_division: Whether an object may become two.
        max_division_distance_mm: Largest distance of the centres of a mother and her second daughter; None takes
            max_distance_mm. Of no use with cost "overlap".

    Raises:
        UsageError: A knob has an unfit value, or laptrack is not installed.
    """

    def __init__(
        self,
        *,
        cost: str = "distance",
        max_distance_mm: float = 15.0,
        min_overlap: float = 0.1,
        gap_frames: int = 0,
        allow_division: bool = True,
        max_division_distance_mm: float | None = None,
    ) -> None:
        if cost not in COSTS:
            raise UsageError(f"cost needs {' or '.join(COSTS)}, got {cost!r}")
        self.cost = cost
        self.max_distance_mm = check_length(max_distance_mm, "max_distance_mm")
        self.min_overlap = check_part(min_overlap, "min_overlap")
        self.gap_frames = check_count(gap_frames, "gap_frames")
        self.allow_division = allow_division
        of_division = max_distance_mm if max_division_distance_mm is None else max_division_distance_mm
        self.max_division_distance_mm = check_length(of_division, "max_division_distance_mm")
        self._library = _library()

    def __call__(self, sequence: Sequence) -> TrackedSequence:
        """Link the instances of a sequence.

        Args:
            sequence: Consecutive frames.

        Returns:
            The frames with ids of tracks, and the tracks.
        """
        ids = {frame: np.unique(image[image > 0]) for frame, image in sequence.frames.items()}
        if not any(map(len, ids.values())):
            return TrackedSequence(sequence, ())
        numbers = list(sequence.frames)
        if self.cost == "distance":
            coordinates = [centres_mm(sequence, frame) for frame in numbers]
            knobs = self._by_distance()
        else:
            coordinates = [np.stack([np.full(len(ids[n]), float(n)), ids[n].astype(float)], axis=1) for n in numbers]
            knobs = self._by_overlap(sequence)
        graph = self._library.LapTrack(**knobs).predict(coordinates)
        links = [
            ((numbers[a], int(ids[numbers[a]][i])), (numbers[b], int(ids[numbers[b]][j])))
            for (a, i), (b, j) in graph.edges
        ]
        return tracks_along(sequence, ids, links)

    def _by_distance(self) -> dict[str, Any]:
        division = self.max_division_distance_mm**2
        return self._knobs("sqeuclidean", "sqeuclidean", self.max_distance_mm**2, division)

    def _by_overlap(self, sequence: Sequence) -> dict[str, Any]:
        iou, covered = _parts(sequence, self.gap_frames + 1)

        def linking(one: Float[np.ndarray, "2"], other: Float[np.ndarray, "2"]) -> float:
            return 1.0 - iou.get((tuple(one), tuple(other)), 0.0)

        def dividing(daughter: Float[np.ndarray, "2"], mother: Float[np.ndarray, "2"]) -> float:
            return 1.0 - covered.get((tuple(mother), tuple(daughter)), 0.0)

        return self._knobs(linking, dividing, 1.0 - self.min_overlap, 1.0 - self.min_overlap)

    def _knobs(self, linking: Any, dividing: Any, dearest: float, dearest_division: float) -> dict[str, Any]:
        """The library's knobs; its cutoffs exclude their own value, and it counts a gap by the step across it."""
        cutoff, of_division = (float(np.nextafter(value, np.inf)) for value in (dearest, dearest_division))
        none = _ALTERNATIVE * max(cutoff, of_division if self.allow_division else 0.0)
        costs = ("track_start_cost", "track_end_cost", "segment_start_cost", "segment_end_cost", "no_splitting_cost")
        return {
            "metric": linking,
            "cutoff": cutoff,
            "gap_closing_metric": linking,
            "gap_closing_cutoff": cutoff if self.gap_frames else False,
            "gap_closing_max_frame_count": self.gap_frames + 1,
            "splitting_metric": dividing,
            "splitting_cutoff": of_division if self.allow_division else False,
            "merging_cutoff": False,
            **dict.fromkeys(costs, none),
        }


def centres_mm(sequence: Sequence, frame: int) -> Float[np.ndarray, "objects dims"]:
    """Centres of mass of the objects of a frame along the axes of the array, in ascending order of their ids.

    Args:
        sequence: The sequence.
        frame: Number of the frame.

    Returns:
        Distances from the centre of the first voxel in mm, or pixels.
    """
    image = sequence.frames[frame]
    ids = np.unique(image[image > 0])
    centres = np.array(ndimage.center_of_mass(image > 0, image, ids)).reshape(len(ids), image.ndim)
    return centres * np.array(sequence.geometry.spacing_mm)


Pair = tuple[tuple[float, ...], tuple[float, ...]]


def _parts(sequence: Sequence, most_steps: int) -> tuple[Mapping[Pair, float], Mapping[Pair, float]]:
    """Intersection over union, and the part of the later object that is covered, of all (frame, id) that meet."""
    iou: dict[Pair, float] = {}
    covered: dict[Pair, float] = {}
    numbers = list(sequence.frames)
    for place, earlier in enumerate(numbers):
        for later in numbers[place + 1 : place + 1 + most_steps]:
            shared = overlaps(sequence.frames[earlier], sequence.frames[later])
            for one, other, together, part in zip(
                shared.first.tolist(),
                shared.second.tolist(),
                shared.iou.tolist(),
                shared.of_second.tolist(),
                strict=True,
            ):
                key = ((float(earlier), float(one)), (float(later), float(other)))
                iou[key], covered[key] = together, part
    return iou, covered


def _library() -> ModuleType:
    try:
        import laptrack
    except ImportError as error:
        raise UsageError(
            "linking over frames needs laptrack, which is not installed; run: pip install laptrack"
        ) from error
    return laptrack

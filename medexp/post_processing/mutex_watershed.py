"""Instances from learned affinities: voxels that attract each other, and are not kept apart."""

from __future__ import annotations

from types import ModuleType

import numpy as np
from jaxtyping import Bool, Float, Integer

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Kind, Prediction
from medexp.post_processing._components import voxels_of
from medexp.post_processing._instances import foreground_of, likely_values, with_instances
from medexp.post_processing._knobs import check_count, check_probability, check_volume
from medexp.post_processing._masks import map_of

_REMEDY = "choose task=instance/parallel task/representation=affinity"


class MutexWatershed:
    """Join voxels of the foreground, the surest pair first, unless a surer pair says that they are apart.

    The affinity to a neighbour along an axis attracts, with itself as its strength; that to a voxel farther away
    repels, with one minus itself. Pairs are taken from the strongest to the weakest: those that attract join their
    objects unless these are kept apart, and those that repel keep their objects apart from then on. The foreground are
    the voxels whose classes together are at least as likely as `foreground_threshold`. An object's class is the one
    with the highest mean probability inside it, and this mean is its score.

    Where affinities are not sure, fragments of few voxels remain apart; `min_volume_mm3` leaves them out.

    On another grid than the network's the offsets are turned and stretched. A neighbour then is the one along the axis
    that the turned offset lies along; offsets to far voxels are rounded, and left out where nothing remains of them.

    Source: S. Wolf et al., The mutex watershed and its objective: efficient, parameter-free graph partitioning, IEEE
    Transactions on Pattern Analysis and Machine Intelligence 43 (2021); the library is mwatershed.

    Args:
        foreground_threshold: Probability from which on a voxel belongs to an object, above 0 and up to 1.
        stride_px: Affinities to far voxels count in every so many voxels along each axis.
        min_volume_mm3: Smallest object that stays, in mm3; in 2D in mm2, and in pixels where `Geometry.unit` is "px".

    Raises:
        UsageError: A knob has a value that is not listed, or mwatershed is not installed.
    """

    takes = Kind.AFFINITIES
    gives = Kind.INSTANCES

    def __init__(self, *, foreground_threshold: float = 0.5, stride_px: int = 1, min_volume_mm3: float = 0.0) -> None:
        self.foreground_threshold = check_probability(foreground_threshold, "mutex_watershed.foreground_threshold")
        self.stride_px = check_count(stride_px, "mutex_watershed.stride_px")
        self.min_volume_mm3 = check_volume(min_volume_mm3, "mutex_watershed.min_volume_mm3")
        self._library = _library()

    def __call__(self, prediction: Prediction) -> Prediction:
        """Make the instances.

        Args:
            prediction: Exclusive classes with probabilities of background and classes, and a map "affinity" with a
                direction for each channel, first those to the neighbours along the axes.

        Returns:
            The prediction with instances, objects, and a mask that shows them.

        Raises:
            UsageError: There are no probabilities, or the classes overlap.
            DataError: There is no such map with directions, or a map holds nan.
        """
        foreground = foreground_of(prediction, self.foreground_threshold, "mutex_watershed")
        affinity = map_of(prediction, "affinity", None, "mutex_watershed", _REMEDY)
        directions = prediction.directions.get("affinity")
        if directions is None or directions.shape != (len(affinity), foreground.ndim):
            got = "none" if directions is None else f"an array of shape {directions.shape}"
            raise DataError(
                f"mutex_watershed in case {prediction.case_id} takes a direction of {foreground.ndim} components for "
                f"each of {len(affinity)} affinities, got {got}; {_REMEDY}"
            )
        numbers = self._joined(affinity, directions, foreground)
        values = likely_values(prediction, numbers, voxels_of(self.min_volume_mm3, prediction.geometry))
        return with_instances(prediction, numbers, values, "mutex_watershed")

    def _joined(
        self,
        affinity: Float[np.ndarray, "channels *spatial"],
        directions: Float[np.ndarray, "channels dims"],
        foreground: Bool[np.ndarray, "*spatial"],
    ) -> Integer[np.ndarray, "*spatial"]:
        """Number of the object of each voxel, from 1; 0 outside the foreground."""
        dims = foreground.ndim
        numbers = np.zeros(foreground.shape, dtype=np.int32)
        offsets = np.concatenate([_neighbours(directions[:dims]), np.rint(directions[dims:]).astype(np.int64)])
        # The library panics where an offset leads out of the image from everywhere.
        kept = np.flatnonzero(offsets.any(axis=1) & (np.abs(offsets) < foreground.shape).all(axis=1))
        if not foreground.any() or not len(kept):
            numbers[foreground] = np.arange(1, foreground.sum() + 1)
            return numbers
        # Above 0 a pair attracts, below it repels; what is 0 comes last, and by then it says nothing.
        pull = np.concatenate([affinity[:dims], affinity[dims:] - 1])[kept].astype(np.float64)
        pull *= _both_inside(foreground, offsets[kept])
        strides = [[1 if channel < dims else self.stride_px] * dims for channel in kept]
        found = self._library.agglom(pull, offsets[kept].tolist(), strides=strides)
        numbers[foreground] = _numbered(found[foreground])
        return numbers


def _library() -> ModuleType:
    try:
        import mwatershed
    except ImportError:
        raise UsageError(
            "post-processing step mutex_watershed needs mwatershed, which is not installed; run: pip install "
            '"medexp[instances]"'
        ) from None
    library: ModuleType = mwatershed
    return library


def _neighbours(directions: Float[np.ndarray, "near dims"]) -> Integer[np.ndarray, "near dims"]:
    """The step by one voxel along the axis that each direction mostly lies along."""
    rows, axes = np.arange(len(directions)), np.abs(directions).argmax(axis=1)
    steps = np.zeros(directions.shape, dtype=np.int64)
    steps[rows, axes] = np.sign(directions[rows, axes]).astype(np.int64)
    return steps


def _both_inside(
    foreground: Bool[np.ndarray, "*spatial"], offsets: Integer[np.ndarray, "channels dims"]
) -> Bool[np.ndarray, "channels *spatial"]:
    """Whether each voxel and the one at each offset lie in the foreground; what lies outside the image does not."""
    reach = int(np.abs(offsets).max())
    padded = np.pad(foreground, reach)
    there = [
        padded[
            tuple(slice(reach + step, reach + step + size) for step, size in zip(offset, foreground.shape, strict=True))
        ]
        for offset in offsets.tolist()
    ]
    return foreground & np.stack(there)


def _numbered(names: Integer[np.ndarray, "voxels"]) -> Integer[np.ndarray, "voxels"]:
    """The names as numbers from 1, in the order in which they first occur."""
    _, first, which = np.unique(names, return_index=True, return_inverse=True)
    rank: np.ndarray = np.argsort(np.argsort(first))
    return rank[which] + 1

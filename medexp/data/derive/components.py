"""Objects from the connected parts of a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cc3d
import numpy as np
from jaxtyping import Integer

from medexp.core.errors import UsageError
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Image
from medexp.data.derive.derived import needed

# By number of axes: voxels that share a face are neighbours, or those too that share an edge or a corner only.
_NEIGHBOURS = {"faces": {2: 4, 3: 6}, "corners": {2: 8, 3: 26}}


class Components:
    """Each connected part of a label becomes an instance, with a box; the mask keeps the voxels of instances alone.

    Args:
        chosen: Names of the labels whose parts are objects; None for all but the background.
        connectivity: "faces", neighbours share a face (4 in 2D, 6 in 3D), or "corners", they may share a corner only (8
            in 2D, 26 in 3D).
        min_volume_mm3: Smallest part that is an object (area in 2D, pixels without a physical scale).

    Raises:
        UsageError: A knob has a value that has no meaning.
    """

    def __init__(self, *, chosen: Sequence[str] | None, connectivity: str, min_volume_mm3: float) -> None:
        if chosen is not None and (isinstance(chosen, str) or not chosen):
            raise UsageError(f"dataset.derive: components.chosen needs a list of labels or null, got {chosen!r}")
        if connectivity not in _NEIGHBOURS:
            raise UsageError(
                f"dataset.derive: components.connectivity needs {' or '.join(_NEIGHBOURS)}, got {connectivity!r}"
            )
        if not 0 <= min_volume_mm3 < np.inf:
            raise UsageError(
                f"dataset.derive: components.min_volume_mm3 needs a finite value >= 0, got {min_volume_mm3}"
            )
        self.chosen = chosen
        self.connectivity = connectivity
        self.min_volume_mm3 = min_volume_mm3

    def labels(self, labels: Mapping[int, str]) -> Mapping[int, str]:
        """The background and the chosen labels; UsageError where one is unknown."""
        ids = self._ids(labels)
        return {0: labels.get(0, "background"), **{label: labels[label] for label in ids}}

    def __call__(self, image: Image, labels: Mapping[int, str]) -> Annotation:
        """Instances, boxes and mask of the chosen labels; DataError where there is no mask."""
        if image.annotation is None or image.annotation.mask is None:
            raise needed(image, "a mask", "components")
        whole = image.annotation.mask
        mask = np.where(np.isin(whole, self._ids(labels)), whole, 0)
        connectivity = _NEIGHBOURS[self.connectivity][mask.ndim]
        instances, label_of = _parts(mask, self.min_volume_mm3 / image.geometry.voxel_volume_mm3, connectivity)
        return Annotation(
            mask=np.where(instances > 0, mask, 0),
            instances=instances,
            objects=Objects.of_instances(instances, label_of),
        )

    def _ids(self, labels: Mapping[int, str]) -> list[int]:
        ids = {name: label for label, name in labels.items() if label != 0}
        unknown = sorted(set(self.chosen or ()) - set(ids))
        if unknown:
            raise UsageError(
                f"dataset.derive: components.chosen needs some of {', '.join(ids)}, got {', '.join(unknown)}"
            )
        return sorted(ids[name] for name in (ids if self.chosen is None else self.chosen))


def _parts(
    mask: Integer[np.ndarray, "*spatial"], min_voxels: float, connectivity: int
) -> tuple[Integer[np.ndarray, "*spatial"], dict[int, int]]:
    """The connected parts of equal label that are large enough, numbered from 1, and the label of each."""
    numbers = cc3d.connected_components(np.ascontiguousarray(mask), connectivity=connectivity)
    voxels = np.bincount(numbers.ravel())
    # Spacings come from headers in single precision.
    kept = [number for number in range(1, len(voxels)) if voxels[number] >= min_voxels * (1 - 1e-6)]
    renumbered = np.zeros(len(voxels), dtype=np.int32)
    renumbered[kept] = np.arange(1, len(kept) + 1)
    label_of = np.zeros(len(voxels), dtype=np.int64)
    label_of[numbers.ravel()] = mask.ravel()
    return renumbered[numbers], {own: int(label_of[number]) for own, number in enumerate(kept, start=1)}

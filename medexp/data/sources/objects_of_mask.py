"""Boxes around the parts of another source's masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import cc3d
import numpy as np
from jaxtyping import Integer

from medexp.core.errors import DataError, UsageError
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Case, Image, Source

# By number of axes: voxels that share a face are neighbours, or those too that share an edge or a corner only.
_NEIGHBOURS = {"faces": {2: 4, 3: 6}, "corners": {2: 8, 3: 26}}


class ObjectsOfMask:
    """The images of another source, where each connected part of a chosen label is an object with a box.

    Args:
        source: Lists and reads the cases, with masks.
        chosen: Names of the labels whose parts are objects.
        connectivity: "faces", neighbours share a face (4 in 2D, 6 in 3D), or "corners", they may share a corner only (8
            in 2D, 26 in 3D).
        min_volume_mm3: Smallest part that is an object (area in 2D, pixels without a physical scale).
        keep_mask: Keep the voxels of the objects as a mask beside the boxes.

    Raises:
        UsageError: A name is not among the labels of the source, or a knob has a value that has no meaning.
    """

    labels: Mapping[int, str]

    def __init__(
        self, *, source: Source, chosen: Sequence[str], connectivity: str, min_volume_mm3: float, keep_mask: bool
    ) -> None:
        ids = {name: label for label, name in source.labels.items() if label != 0}
        if not chosen or isinstance(chosen, str) or not set(chosen) <= set(ids):
            raise UsageError(f"dataset.source.chosen needs a list of some of {', '.join(ids)}, got {chosen}")
        if connectivity not in _NEIGHBOURS:
            raise UsageError(f"dataset.source.connectivity needs {' or '.join(_NEIGHBOURS)}, got {connectivity!r}")
        if not 0 <= min_volume_mm3 < np.inf:
            raise UsageError(f"dataset.source.min_volume_mm3 needs a finite value >= 0, got {min_volume_mm3}")
        self.source = source
        self.chosen = sorted(ids[name] for name in chosen)
        self.connectivity = connectivity
        self.min_volume_mm3 = min_volume_mm3
        self.keep_mask = keep_mask
        self.name = f"{source.name}_objects"
        self.spatial_dims = source.spatial_dims
        self.channels = source.channels
        self.public = source.public
        self.labels = {0: source.labels.get(0, "background"), **{label: source.labels[label] for label in self.chosen}}

    def cases(self) -> list[Case]:
        """All cases of the source."""
        return self.source.cases()

    def read(self, case: Case) -> Image:
        """Read one case and find its objects; DataError where it has no mask."""
        image = self.source.read(case)
        if image.annotation is None or image.annotation.mask is None:
            raise DataError(f"case {case.case_id} has no mask that boxes could be made of; remove it or add the mask")
        mask = np.where(np.isin(image.annotation.mask, self.chosen), image.annotation.mask, 0)
        min_voxels = self.min_volume_mm3 / image.geometry.voxel_volume_mm3
        instances, labels = _parts(mask, min_voxels, connectivity=_NEIGHBOURS[self.connectivity][mask.ndim])
        annotation = Annotation(
            mask=np.where(instances > 0, mask, 0) if self.keep_mask else None,
            objects=Objects.of_instances(instances, labels),
        )
        return replace(image, annotation=annotation)


def _parts(
    mask: Integer[np.ndarray, "*spatial"], min_voxels: float, *, connectivity: int
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

"""Labels of whole images from the masks of another source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Annotation, Case, Image, Source

ABSENT, PRESENT = 0, 1


class LabelOfMask:
    """The images of another source, each labelled by whether its mask shows what is looked for.

    Args:
        source: Lists and reads the cases, with masks.
        present: Names of the labels that are looked for; one of them is enough.
        min_volume_mm3: Smallest volume (area in 2D, pixels without a physical scale) that counts as present, above 0.

    Raises:
        UsageError: A name is not among the labels of the source, or the volume is not above 0.
    """

    labels: Mapping[int, str]

    def __init__(self, *, source: Source, present: Sequence[str], min_volume_mm3: float) -> None:
        ids = {name: label for label, name in source.labels.items()}
        unknown = [name for name in present if name not in ids]
        if unknown or not present:
            raise UsageError(f"dataset.source.present needs some of {', '.join(ids)}, got {list(present)}")
        if min_volume_mm3 <= 0:
            raise UsageError(f"dataset.source.min_volume_mm3 needs a value above 0, got {min_volume_mm3}")
        self.source = source
        self.present = [ids[name] for name in present]
        self.min_volume_mm3 = min_volume_mm3
        self.name = f"{source.name}_labels"
        self.spatial_dims = source.spatial_dims
        self.channels = source.channels
        self.public = source.public
        self.labels = {ABSENT: f"no {' or '.join(present)}", PRESENT: " or ".join(present)}

    def cases(self) -> list[Case]:
        """All cases of the source."""
        return self.source.cases()

    def read(self, case: Case) -> Image:
        """Read one case and label it; DataError where it has no mask."""
        image = self.source.read(case)
        if image.annotation is None or image.annotation.mask is None:
            raise DataError(f"case {case.case_id} has no mask that could be made a label; remove it or add the mask")
        voxels = np.count_nonzero(np.isin(image.annotation.mask, self.present))
        label = PRESENT if voxels * image.geometry.voxel_volume_mm3 >= self.min_volume_mm3 else ABSENT
        return replace(image, annotation=Annotation(image_labels=(label,)))

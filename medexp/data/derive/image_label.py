"""A label of the whole image from whatever else is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medexp.core.errors import UsageError
from medexp.core.types import Annotation, Image
from medexp.data.derive.derived import needed

ABSENT, PRESENT = 0, 1


class ImageLabel:
    """An image is labelled by whether it shows what is looked for.

    What is looked for is measured in the mask where there is one; else it is there where an object or a label of the
    image says so.

    Args:
        present: Names of the labels that are looked for, one of which is enough; None for all but the background.
        min_volume_mm3: Smallest volume in the mask (area in 2D, pixels without a physical scale) that counts, above 0.

    Raises:
        UsageError: A knob has a value that has no meaning.
    """

    def __init__(self, *, present: Sequence[str] | None, min_volume_mm3: float) -> None:
        if present is not None and (isinstance(present, str) or not present):
            raise UsageError(f"dataset.derive: image_label.present needs a list of labels or null, got {present!r}")
        if not min_volume_mm3 > 0:
            raise UsageError(f"dataset.derive: image_label.min_volume_mm3 needs a value above 0, got {min_volume_mm3}")
        self.present = present
        self.min_volume_mm3 = min_volume_mm3

    def labels(self, labels: Mapping[int, str]) -> Mapping[int, str]:
        """0 and 1 with names of their own; UsageError where a label is unknown."""
        names = " or ".join(labels[label] for label in self._ids(labels))
        return {ABSENT: f"no {names}", PRESENT: names}

    def __call__(self, image: Image, labels: Mapping[int, str]) -> Annotation:
        """The label alone; DataError where nothing is known that could be made one."""
        known, ids = image.annotation or Annotation(), self._ids(labels)
        if known.mask is not None:
            voxels = int(np.count_nonzero(np.isin(known.mask, ids)))
            found = voxels * image.geometry.voxel_volume_mm3 >= self.min_volume_mm3
        elif known.objects is not None:
            found = bool(np.isin(known.objects.labels, ids).any())
        elif known.image_labels is not None:
            found = bool(set(known.image_labels) & set(ids))
        else:
            raise needed(image, "a mask, objects or labels", "image_label")
        return Annotation(image_labels=(PRESENT if found else ABSENT,))

    def _ids(self, labels: Mapping[int, str]) -> list[int]:
        ids = {name: label for label, name in labels.items()}
        unknown = sorted(set(self.present or ()) - set(ids))
        if unknown:
            raise UsageError(
                f"dataset.derive: image_label.present needs some of {', '.join(ids)}, got {', '.join(unknown)}"
            )
        return [label for name, label in ids.items() if (label != 0 if self.present is None else name in self.present)]

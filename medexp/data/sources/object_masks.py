"""Images with a mask file for each object, as the Data Science Bowl 2018 has them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Fault
from medexp.core.types import Case, Image
from medexp.data.sources._class_ids import BACKGROUND
from medexp.data.sources._files import ENDINGS, read_image, read_labels
from medexp.data.sources._instances import Layered, Voxels, annotation_of
from medexp.data.sources._listed import (
    Groups,
    check_shape,
    checked_names,
    checked_root,
    in_channels,
    name_of,
    raise_errors,
    told,
    visible,
)


class ObjectMasks:
    """A folder for each image, which holds the image and the masks of its objects, one object a file.

    In a mask one value other than 0 is the object. Where objects overlap, the smaller one lies on top, since an
    instance map holds one id a voxel; an object that is hidden completely, or whose mask is empty, is no instance, and
    its box is gone too. An object in several parts stays one instance. An image whose folder of masks is empty shows no
    object. The annotation holds a mask, the instances, and their boxes.

    Args:
        root: Folder that holds a folder for each image.
        image_folder: Folder of the image, below the folder of each.
        mask_folder: Folder of the masks, below the folder of each.
        channels: Names of the image's channels; grey values that were saved as RGB are one channel where one is named.
        class_name: What the objects are.
        max_overlap: Largest share of its voxels that an object may share with others without a warning.
        group_pattern: Regular expression with one group that finds the patient in the case id, which is the name of the
            folder; None takes each case as a patient of its own.
        public: Whether the images may be shown to anyone.

    Raises:
        UsageError: A knob has an unfit value.
    """

    spatial_dims = 2

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        image_folder: str = "images",
        mask_folder: str = "masks",
        channels: Sequence[str] = ("intensity",),
        class_name: str = "object",
        max_overlap: float = 0.1,
        group_pattern: str | None = None,
        public: bool = False,
    ) -> None:
        if not 0 <= max_overlap <= 1:
            raise UsageError(f"dataset.source.max_overlap needs a share from 0 to 1, got {max_overlap}")
        self.root = checked_root(root, "a folder for each image")
        self.image_folder = image_folder
        self.mask_folder = mask_folder
        self.channels = checked_names("channels", channels)
        self.labels: Mapping[int, str] = {0: BACKGROUND, 1: class_name}
        self.max_overlap = max_overlap
        self.public = public
        self.name = name_of(self.root)
        self._groups = Groups(group_pattern)

    def cases(self) -> list[Case]:
        """All cases in the order of their names; a folder that has neither image nor masks is passed over.

        DataError where no folder has an image.
        """
        parts = (self.image_folder, self.mask_folder)
        folders = [folder for folder in visible(self.root) if any((folder / part).is_dir() for part in parts)]
        if not folders:
            expected = f"folders that hold {self.image_folder} and {self.mask_folder}"
            remedy = "set dataset.root to the folder that holds them"
            raise DataError.of(Fault("unlistable", expected, "none", remedy, file=self.root))
        return [self._case(folder) for folder in folders]

    def read(self, case: Case) -> Image:
        """Read image and masks; overlaps and objects without voxels are told in the faults of the image's case.

        DataError where the case was listed with an error, a file is damaged, an image has other channels, or a mask has
        another shape or several values.
        """
        raise_errors(case)
        pixels, geometry = read_image(case.images[0], case_id=case.case_id, spatial_dims=2)
        pixels = in_channels(pixels, self.channels, case_id=case.case_id, file=case.images[0])
        voxels = [_voxels(path, pixels.shape[1:], case_id=case.case_id) for path in case.references.values()]
        layered = Layered.of(voxels, pixels.shape[1:])
        folder = case.images[0].parents[1] / self.mask_folder
        warnings = layered.faults(max_overlap=self.max_overlap, case_id=case.case_id, file=folder)
        annotation = annotation_of(layered.instances, [1] * len(layered.kept))
        return Image(told(case, warnings), pixels, annotation, geometry)

    def _case(self, folder: Path) -> Case:
        images, masks = (_pictures(folder / part) for part in (self.image_folder, self.mask_folder))
        group, faults = self._groups.of(folder.name)
        if len(images) != 1:
            check, file = "missing_image" if not images else "several_images", folder / self.image_folder
            found = ", ".join(path.name for path in images[:5]) or "none"
            remedy = "restore it" if not images else "give each image a folder of its own"
            faults += (Fault(check, "one image", found, remedy, folder.name, file),)
        if not (folder / self.mask_folder).is_dir():
            remedy = "restore it, or make an empty one where the image shows no object"
            faults += (
                Fault("missing_label", "a folder of masks", "none", remedy, folder.name, folder / self.mask_folder),
            )
        return Case(
            case_id=folder.name,
            group=group,
            images=tuple(images),
            references={f"object_{number:04d}": path for number, path in enumerate(masks, start=1)},
            faults=faults,
        )


def _pictures(folder: Path) -> list[Path]:
    return [path for path in visible(folder) if path.name.lower().endswith(ENDINGS)]


def _voxels(path: Path, shape: tuple[int, ...], *, case_id: str) -> Voxels:
    """The voxels of the one object of a mask."""
    mask, _ = read_labels(path, case_id=case_id, spatial_dims=2)
    check_shape(mask.shape, shape, case_id=case_id, file=path)
    voxels = np.flatnonzero(mask != 0)
    values = np.unique(mask.reshape(-1)[voxels])
    if len(values) > 1:
        found = f"{len(values)}, from {values[0]} to {values[-1]}"
        remedy = "save one object a file, without smoothing its border"
        expected = "one value for its object beside 0"
        raise DataError.of(Fault("several_objects", expected, found, remedy, case_id, path))
    return voxels

"""A folder of images and a folder of masks, matched by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from medexp.core.errors import DataError, UsageError, did_you_mean
from medexp.core.faults import Fault
from medexp.core.types import Case, Image
from medexp.data.sources._file_reader import (
    IMAGE_LABELS,
    INSTANCES,
    MASK,
    FileReader,
    checked_labels,
    only_label,
    with_data_files,
)
from medexp.data.sources._files import ENDINGS
from medexp.data.sources._grids import GridRule
from medexp.data.sources._listed import Groups, check_choice, checked_names, checked_root, name_of, natural
from medexp.data.sources._named_files import Key, named_files

_IMAGE = "image"
_KNOBS = {MASK: "mask_folder", INSTANCES: "instance_folder"}
_ABSENT = {
    _IMAGE: ("missing_image", "restore the image, or take out what belongs to it"),
    MASK: ("missing_label", "add the mask, or take the image out"),
    INSTANCES: ("missing_label", "add the instance map, or take the image out"),
}
_REPEATED = {
    _IMAGE: ("duplicate_case_id", "rename all but one of them"),
    MASK: ("several_labels", "remove all but one of them"),
    INSTANCES: ("several_labels", "remove all but one of them"),
}


class Folder:
    """Images whose masks have the same name in another folder, in any format that is read.

    The id of a case is the image's path below its folder without suffix and ending, with `__` between the parts. An
    image without its mask, a mask without its image, and several files of one name are faults of that case. Hidden
    files are passed over.

    Args:
        root: Folder that holds the folders of images and masks.
        spatial_dims: 2 or 3.
        channels: Names of the channels of an image; grey values that were saved as RGB are one channel where one is
            named.
        labels: Name of each label id of the masks, or with `label_from` of the images. None stands for a background and
            a foreground, and with `label_from` numbers the classes from 0 on in alphabetical order.
        image_folder: Folder of the images, below the root.
        mask_folder: Folder of the masks, below the root; None where there are none.
        instance_folder: Folder of the instance maps, whose ids tell objects apart, below the root; None where there are
            none. The label of an instance is that of most of its voxels in the mask, or without masks the only one.
        image_suffix: What the name of an image has behind that of its case, such as "_image"; files without it are
            passed over.
        mask_suffix: What the name of a mask has behind that of its case, such as "_mask".
        instance_suffix: The same of an instance map.
        recursive: Search the folders below these too; those that are links are followed, each once.
        label_from: "folder", the first folder below that of the images names the class of an image; None where images
            have no class.
        value_map: Label id of some values of a mask, such as {255: 1}; other values are label ids themselves.
        group_pattern: Regular expression with one group that finds the patient in the case id; None takes each case as
            a patient of its own.
        spacing_mm: Distance between voxels along each axis of pictures and TIFF stacks, which have no physical scale;
            None leaves it unknown.
        geometry: What becomes of a mask on another grid than its image: "error"; "warn", it is taken as it is; or
            "resample_label".
        grid_tolerance_voxels: How far the grids of image and mask may lie apart, at the most distant voxel.
        check_headers: Refuse a NIfTI file whose sform and qform disagree or are both unset.
        public: Whether the images may be shown to anyone.

    Raises:
        UsageError: A knob has an unfit value.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        spatial_dims: int = 2,
        channels: Sequence[str] = ("intensity",),
        labels: Mapping[int, str] | None = None,
        image_folder: str = "images",
        mask_folder: str | None = "masks",
        instance_folder: str | None = None,
        image_suffix: str = "",
        mask_suffix: str = "",
        instance_suffix: str = "",
        recursive: bool = False,
        label_from: str | None = None,
        value_map: Mapping[int, int] | None = None,
        group_pattern: str | None = None,
        spacing_mm: Sequence[float] | None = None,
        geometry: str = "error",
        grid_tolerance_voxels: float = 0.05,
        check_headers: bool = True,
        public: bool = False,
    ) -> None:
        self.root = checked_root(root, "the folders of images and masks")
        self.name = name_of(self.root)
        self.spatial_dims = spatial_dims
        self.channels = checked_names("channels", channels)
        self.public = public
        self.recursive = recursive or label_from is not None
        self.label_from = label_from
        self._folders = {_IMAGE: image_folder, MASK: mask_folder, INSTANCES: instance_folder}
        self._suffixes = {_IMAGE: image_suffix, MASK: mask_suffix, INSTANCES: instance_suffix}
        self._groups = Groups(group_pattern)
        self._check_folders()
        in_voxels = mask_folder is not None or instance_folder is not None
        numbered = labels is None and label_from is not None
        if numbered and in_voxels:
            raise UsageError(
                "dataset.source.labels needs names of the label ids of masks and images, or mask_folder and "
                "instance_folder need to be null"
            )
        self._declared = None if numbered else checked_labels(labels, background=in_voxels)
        alone = instance_folder is not None and mask_folder is None
        self._reader = FileReader(
            spatial_dims=spatial_dims,
            channels=self.channels,
            grid=GridRule(geometry, grid_tolerance_voxels),
            spacing_mm=None if spacing_mm is None else tuple(map(float, spacing_mm)),
            value_map=value_map,
            instance_label=only_label(self._declared) if alone and self._declared else 1,
            check_headers=check_headers,
        )

    @cached_property
    def labels(self) -> Mapping[int, str]:
        """Name of each label id; where the folders are the classes, this looks for them."""
        if self._declared is not None:
            return self._declared
        names = sorted({key[0] for key in self._found[_IMAGE] if len(key) > 1})
        return dict(enumerate(names))

    def cases(self) -> list[Case]:
        """All cases in the order of their names; of an image, a mask or an instance map without the others too.

        DataError where one of the folders is missing, or the one of the images has no image.
        """
        found = self._found
        keys = sorted({key for files in found.values() for key in files}, key=lambda key: natural("__".join(key)))
        return [self._case(key, {role: files.get(key, []) for role, files in found.items()}) for key in keys]

    def read(self, case: Case) -> Image:
        """Read an image with its mask and instances; grids that differ and need not are told in the image's case.

        DataError where the case was listed with an error, a file is damaged or missing, the image has other channels,
        or a label is no whole number or lies on another grid.
        """
        return self._reader.read(case)

    def _check_folders(self) -> None:
        if self.label_from is not None:
            check_choice("label_from", self.label_from, ("folder",))
        roles = [(Path(folder), self._suffixes[role]) for role, folder in self._folders.items() if folder is not None]
        if len(set(roles)) < len(roles):
            raise UsageError(
                f"dataset.source needs images, masks and instances in folders of their own, or suffixes that tell them "
                f"apart, got {roles}"
            )

    @cached_property
    def _found(self) -> dict[str, dict[Key, list[Path]]]:
        """The files of each role by the name of the image."""
        folders = {role: self.root / folder for role, folder in self._folders.items() if folder is not None}
        for role, folder in folders.items():
            if not folder.is_dir():
                remedy = "set dataset.root to the folder that holds it" + (
                    "" if role == _IMAGE else f", or dataset.source.{_KNOBS[role]}=null where there is none"
                )
                raise DataError.of(Fault("unlistable", "to be a folder", "none", remedy, file=folder))
        found = {role: self._of_role(role, folders) for role in folders}
        if not found[_IMAGE]:
            expected = f"images with one of the endings {', '.join(ENDINGS)}"
            remedy = "choose another folder, or set dataset.source.recursive=true where they lie in folders below it"
            raise DataError.of(Fault("unlistable", expected, "none", remedy, file=folders[_IMAGE]))
        return found

    def _of_role(self, role: str, folders: Mapping[str, Path]) -> dict[Key, list[Path]]:
        own, suffix = folders[role], self._suffixes[role]
        files = named_files(own, recursive=self.recursive, without=[path for path in folders.values() if path != own])
        others = {self._suffixes[other] for other, folder in folders.items() if other != role and folder == own}
        taken = tuple(other for other in others if len(other) > len(suffix))
        return {
            (*key[:-1], key[-1].removesuffix(suffix)): paths
            for key, paths in files.items()
            if key[-1].endswith(suffix) and not key[-1].endswith(taken)
        }

    def _case(self, key: Key, files: Mapping[str, list[Path]]) -> Case:
        case_id = "__".join(key)
        group, faults = self._groups.of(case_id)
        facts, unknown = self._facts(key, case_id)
        faults = (*faults, *unknown, *self._faults_of_files(key, files, case_id))
        references = {role: paths[0] for role, paths in files.items() if role != _IMAGE and paths}
        images = tuple(files[_IMAGE][:1])
        return Case(
            case_id=case_id,
            group=group,
            images=images,
            references=with_data_files(images, references),
            facts=facts,
            faults=faults,
        )

    def _facts(self, key: Key, case_id: str) -> tuple[dict[str, list[int]], tuple[Fault, ...]]:
        if self.label_from is None:
            return {}, ()
        ids = {name: label for label, name in self.labels.items()}
        if len(key) > 1 and key[0] in ids:
            return {IMAGE_LABELS: [ids[key[0]]]}, ()
        expected = f"a folder of its class, {' or '.join(ids)}"
        found = repr(key[0]) if len(key) > 1 else f"none below {self._folders[_IMAGE]}"
        hint = did_you_mean(key[0], ids) if len(key) > 1 else ""
        remedy = f"move it there, or name the class in dataset.source.labels{hint}"
        return {}, (Fault("unknown_label", expected, found, remedy, case_id),)

    def _faults_of_files(self, key: Key, files: Mapping[str, list[Path]], case_id: str) -> list[Fault]:
        """What is missing of a case, and what there is too much of."""
        faults = []
        at_hand = next(path for paths in files.values() for path in paths)
        for role, paths in files.items():
            if len(paths) == 1:
                continue
            place = Path(self._folders[role] or "", *key).as_posix() + self._suffixes[role]
            check, remedy = _ABSENT[role] if not paths else _REPEATED[role]
            found = " and ".join(path.name for path in paths) or "none"
            expected = f"one file {place} with an ending that is read"
            faults.append(Fault(check, expected, found, remedy, case_id, paths[0] if paths else at_hand))
        return faults

"""Images with boxes and masks in the JSON files of COCO."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Fault
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Case, Image
from medexp.data.sources._class_ids import ClassIds
from medexp.data.sources._coco_json import CocoFile, Listed
from medexp.data.sources._coco_masks import UnfitSegmentationError, voxels_of
from medexp.data.sources._files import read_image, stem
from medexp.data.sources._instances import Layered, annotation_of
from medexp.data.sources._listed import (
    Groups,
    check_choice,
    check_shape,
    checked_names,
    checked_root,
    in_channels,
    inside,
    name_of,
    raise_errors,
    told,
)

_SPLITS = ("train", "val", "test")
_MASKS = ("auto", "use", "ignore")


class COCO:
    """Images whose objects one JSON file describes, or one for each part of the dataset.

    Objects have the boxes of the file. With masks (polygons, or runs in either form) there are instances and a mask of
    label ids too: voxels that two objects share go to the smaller one, since an instance map holds one id a voxel, and
    an object without a voxel of its own is left out. Regions marked as crowd hold an unknown number of objects and are
    left out, so their voxels are background. An image without annotations shows no object.

    Categories may have any ids; label ids count from 1 in the order of these, as 0 is the background. What a file says
    of its images stands in each case's facts, so that reading a case needs its image only.

    Args:
        root: Folder that holds annotation files and images.
        annotation_files: The JSON file, below the root; or one for each of train, val and test, by part.
        image_folder: Folder of the images, below the root; or one for each part. File names in the JSON are below it.
        channels: Names of the image's channels.
        labels: Label id of each category's name; several names may have one id, and objects of a category with id 0 are
            left out. None numbers all categories.
        masks: "use", "ignore", or "auto": use them where any object has one. Where they are used each object needs one.
        max_overlap: Largest share of its voxels that an object may share with others without a warning.
        group_pattern: Regular expression with one group that finds the patient in the case id; None takes each case as
            a patient of its own.
        public: Whether the images may be shown to anyone.

    Raises:
        UsageError: A knob has an unfit value.
    """

    spatial_dims = 2

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        annotation_files: str | Mapping[str, str] = "annotations.json",
        image_folder: str | Mapping[str, str] = "images",
        channels: Sequence[str] = ("red", "green", "blue"),
        labels: Mapping[str, int] | None = None,
        masks: str = "auto",
        max_overlap: float = 0.5,
        group_pattern: str | None = None,
        public: bool = False,
    ) -> None:
        check_choice("masks", masks, _MASKS)
        if not 0 <= max_overlap <= 1:
            raise UsageError(f"dataset.source.max_overlap needs a share from 0 to 1, got {max_overlap}")
        self.root = checked_root(root, "annotation files and images")
        self.annotation_files = _by_part("annotation_files", annotation_files)
        self.image_folders = _by_part("image_folder", image_folder)
        if None not in self.image_folders and self.image_folders.keys() != self.annotation_files.keys():
            raise UsageError(
                f"dataset.source.image_folder needs one folder, or one for each part of annotation_files, got "
                f"{image_folder}"
            )
        self.channels = checked_names("channels", channels)
        self.masks = masks
        self.max_overlap = max_overlap
        self.public = public
        self.name = name_of(self.root)
        self._given_ids = None if labels is None else ClassIds(labels)
        self._groups = Groups(group_pattern)

    @property
    def labels(self) -> Mapping[int, str]:
        """Name of each label id; where the categories are not given, this reads the annotation files."""
        return self._ids.labels

    def cases(self) -> list[Case]:
        """All cases in the order of the files.

        A case is named by its file name below the image folder, and by its part too where two parts have an image of
        this name. Listed with their faults are images and annotations with ids that others have too, annotations of
        images or categories that the file does not list, malformed ones, and paths that leave the folder.

        DataError where a file is missing or is no COCO file.
        """
        listed = [(part, file, image) for part, file in self._files.items() for image in file.images]
        parts_of: dict[str, set[str | None]] = defaultdict(set)
        for part, _, image in listed:
            parts_of[_name_of(image)].add(part)
        masks, cases = self._uses_masks(), []
        for part, file, image in listed:
            name = _name_of(image)
            case_id = f"{part}__{name}" if len(parts_of[name]) > 1 else name
            cases.append(self._case(case_id, part, file, image, masks=masks))
        return cases

    def read(self, case: Case) -> Image:
        """Read an image and its objects; what an instance map cannot hold is told in the faults of the image's case.

        DataError where the case was listed with an error, the image is damaged or has other channels or another size
        than the file says, a category is not known, or a segmentation is malformed, absent, or leaves the image.
        """
        raise_errors(case)
        path = case.images[0]
        pixels, geometry = read_image(path, case_id=case.case_id, spatial_dims=2)
        pixels = in_channels(pixels, self.channels, case_id=case.case_id, file=path)
        shape = (pixels.shape[1], pixels.shape[2])
        if case.facts["shape"] is not None:
            check_shape(tuple(case.facts["shape"]), shape, case_id=case.case_id, file=path)
        if case.facts["masks"]:
            annotation, warnings = self._instances(case, shape)
            return Image(told(case, warnings), pixels, annotation, geometry)
        boxes = np.array([_corners(item["box"]) for item in case.facts["objects"]]).reshape(-1, 4)
        labels = np.array([item["label"] for item in case.facts["objects"]], dtype=np.int64)
        return Image(case, pixels, Annotation(objects=Objects.of(boxes, labels)), geometry)

    def __getstate__(self) -> dict[str, Any]:
        """All but the parsed files, which processes that only read cases do not need."""
        return {name: value for name, value in self.__dict__.items() if name != "_files"}

    @cached_property
    def _files(self) -> Mapping[str | None, CocoFile]:
        return {part: CocoFile.read(self.root / name) for part, name in self.annotation_files.items()}

    @cached_property
    def _ids(self) -> ClassIds:
        if self._given_ids is not None:
            return self._given_ids
        return ClassIds.numbered(name for file in self._files.values() for name in file.categories)

    def _uses_masks(self) -> bool:
        if self.masks != "auto":
            return self.masks == "use"
        return any(
            item["segmentation"] for file in self._files.values() for image in file.images for item in image.objects
        )

    def _case(self, case_id: str, part: str | None, file: CocoFile, image: Listed, *, masks: bool) -> Case:
        group, faults = self._groups.of(case_id)
        path, of_path = self._image_path(case_id, part, file, image)
        names = [item["class"] for item in image.objects if item["class"] is not None]
        objects = [item for item in (self._object(item, masks=masks) for item in image.objects) if item["label"] != 0]
        faults += (
            *image.faults(case_id, file.path),
            *of_path,
            *self._ids.unknown(names, case_id=case_id, file=file.path),
            *_incomplete(objects, masks=masks, case_id=case_id, file=file.path),
        )
        return Case(
            case_id=case_id,
            group=group,
            images=() if path is None else (path,),
            split=part,
            facts={"shape": None if image.shape is None else list(image.shape), "masks": masks, "objects": objects},
            faults=faults,
        )

    def _object(self, item: Mapping[str, Any], *, masks: bool) -> dict[str, Any]:
        """What a case's facts say of an object; one without a known class has label 0."""
        label = 0 if item["class"] is None else self._ids.get(item["class"]) or 0
        return {"label": label, "box": item["box"]} | ({"segmentation": item["segmentation"]} if masks else {})

    def _image_path(
        self, case_id: str, part: str | None, file: CocoFile, image: Listed
    ) -> tuple[Path | None, tuple[Fault, ...]]:
        if "missing_image" in image.problems:
            return None, ()
        folder = self.root / (self.image_folders.get(None) or self.image_folders[part])
        path = inside(folder, image.file_name)
        if path is None:
            expected, found = f"a file_name that stays in {folder}", repr(image.file_name)
            remedy = "write the path relative to that folder, without '..'"
            return None, (Fault("path_traversal", expected, found, remedy, case_id, file.path),)
        if path.is_file():
            return path, ()
        remedy = "restore it, or set dataset.source.image_folder to the folder that file names are relative to"
        return path, (Fault("missing_image", "an image file", "none", remedy, case_id, path),)

    def _instances(self, case: Case, shape: tuple[int, int]) -> tuple[Annotation, tuple[Fault, ...]]:
        """The annotation of an image whose objects have masks, and warnings."""
        objects, file = case.facts["objects"], case.images[0]
        voxels, unfit = [], []
        for number, item in enumerate(objects, start=1):
            try:
                voxels.append(voxels_of(item["segmentation"], shape))
            except UnfitSegmentationError as error:
                remedy = "correct the segmentation, or check that it belongs to this image"
                expected, found = f"a segmentation inside {shape}", f"{error} (object {number})"
                unfit.append(Fault("unfit_segmentation", expected, found, remedy, case.case_id, file))
        if unfit:
            raise DataError.of(*unfit)
        layered = Layered.of(voxels, shape)
        kept = [objects[number] for number in layered.kept]
        labels = [item["label"] for item in kept]
        boxes = Objects.of_instances(layered.instances, dict(enumerate(labels, start=1))).boxes.copy()
        for row, item in enumerate(kept):
            boxes[row] = boxes[row] if item["box"] is None else _corners(item["box"])
        annotation = annotation_of(layered.instances, labels, objects=Objects.of(boxes, np.array(labels, np.int64)))
        return annotation, layered.faults(max_overlap=self.max_overlap, case_id=case.case_id, file=file)


def _by_part(knob: str, value: str | Mapping[str, str]) -> dict[str | None, str]:
    """A path for each part of the dataset, or one under None for a dataset without parts."""
    if isinstance(value, str):
        return {None: value}
    if not value or not set(value) <= set(_SPLITS) or not all(isinstance(path, str) for path in value.values()):
        raise UsageError(f"dataset.source.{knob} needs a path, or one for each of {', '.join(_SPLITS)}, got {value}")
    return {part: value[part] for part in _SPLITS if part in value}


def _incomplete(objects: Sequence[Mapping[str, Any]], *, masks: bool, case_id: str, file: Path) -> tuple[Fault, ...]:
    """A fault where objects lack what makes them usable."""
    wanted, other = ("segmentation", "ignore") if masks else ("box", "use")
    absent = sum(not item[wanted] for item in objects)
    if not absent:
        return ()
    remedy = f"add what is missing, or set dataset.source.masks={other}"
    found = f"{absent} of {len(objects)} objects without"
    return (Fault("missing_label", f"a {wanted} for each object", found, remedy, case_id, file),)


def _name_of(image: Listed) -> str:
    """The path of an image as one name without ending."""
    path = inside(Path(), image.file_name)
    if path is None:
        return f"image_{image.identity}"
    return "__".join([*path.parts[:-1], stem(path.name) or path.name])


def _corners(box: Sequence[float | int]) -> list[float | int]:
    """x, y, width and height as lower ends along rows and columns, then upper ends."""
    x, y, width, height = box
    return [y, x, y + height, x + width]

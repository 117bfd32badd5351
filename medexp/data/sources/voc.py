"""Images with boxes in the XML files of Pascal VOC."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from medexp.core.errors import DataError
from medexp.core.faults import Fault
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Case, Image
from medexp.data.sources._class_ids import ClassIds
from medexp.data.sources._files import read_image, stem
from medexp.data.sources._listed import (
    Groups,
    check_choice,
    check_shape,
    checked_names,
    checked_root,
    composed,
    in_channels,
    name_of,
    natural,
    raise_errors,
    visible,
)
from medexp.data.sources._voc_xml import Annotated, read_annotated

_SPLITS = ("train", "val", "test")
_DIFFICULT = ("keep", "leave_out")
_UNLISTED = ("fault", "list", "leave_out")


class VOC:
    """Images and boxes in the layout of Pascal VOC.

    In the folder are JPEGImages, Annotations with an XML file for each image, and ImageSets/Main with the lists
    train.txt, val.txt and test.txt, each of which may be absent; without any, no split is prescribed. Boxes are given
    as they are written; those without extent or outside the image are for the checks of the dataset.

    The standard counts pixels from 1 and includes the last one, so that a box of one pixel has equal ends. Most
    annotation tools write the ends of the box in its place, where equal ends mean that it has no extent. What a file
    means cannot be seen in it, so `one_based` says it.

    Args:
        root: Folder that holds the others.
        image_folder: Folder of the images, below the root.
        annotation_folder: Folder of the XML files, below the root.
        list_folder: Folder of the lists, below the root; None reads none.
        channels: Names of the image's channels.
        labels: Label id of each class name; several names may have one id, and objects of a class with id 0 are left
            out. None numbers all names that are found in alphabetical order, for which each XML file is read.
        one_based: Ends are pixels counted from 1, the last one included, as in the challenge itself.
        difficult: "keep" or "leave_out" objects that are marked as difficult.
        unlisted: What becomes of an image that stands in none of the lists: "fault", "list" (in no part) or
            "leave_out".
        group_pattern: Regular expression with one group that finds the patient in the case id, which is the name of the
            image without ending; None takes each case as a patient of its own.
        public: Whether the images may be shown to anyone.

    Raises:
        UsageError: A knob has an unfit value.
    """

    spatial_dims = 2

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        image_folder: str = "JPEGImages",
        annotation_folder: str = "Annotations",
        list_folder: str | None = "ImageSets/Main",
        channels: Sequence[str] = ("red", "green", "blue"),
        labels: Mapping[str, int] | None = None,
        one_based: bool = False,
        difficult: str = "keep",
        unlisted: str = "fault",
        group_pattern: str | None = None,
        public: bool = False,
    ) -> None:
        check_choice("difficult", difficult, _DIFFICULT)
        check_choice("unlisted", unlisted, _UNLISTED)
        self.root = checked_root(root, f"{image_folder} and {annotation_folder}")
        self.image_folder = self.root / image_folder
        self.annotation_folder = self.root / annotation_folder
        self.list_folder = None if list_folder is None else self.root / list_folder
        self.channels = checked_names("channels", channels)
        self.one_based = one_based
        self.difficult = difficult
        self.unlisted = unlisted
        self.public = public
        self.name = name_of(self.root)
        self._given_ids = None if labels is None else ClassIds(labels)
        self._groups = Groups(group_pattern)

    @cached_property
    def labels(self) -> Mapping[int, str]:
        """Name of each label id; where the names are to be found, this reads all annotations."""
        return self._ids.labels

    def cases(self) -> list[Case]:
        """All cases in the order of their names.

        Listed with their faults are images without annotation, annotations and names in a list without image, and
        images in two lists or in none.

        DataError where there is neither an image nor an annotation.
        """
        images: dict[str, list[Path | None]] = defaultdict(list)
        for path in visible(self.image_folder):
            if name := stem(path.name):
                images[composed(name)].append(path)
        if not images and not self._annotations:
            expected = f"{self.image_folder.name} and {self.annotation_folder.name} with files of one name"
            remedy = "set dataset.root to the folder that holds both"
            raise DataError.of(Fault("unlistable", expected, "neither", remedy, file=self.root))
        names = sorted({*images, *self._annotations, *self._lists}, key=natural)
        if self._lists and self.unlisted == "leave_out":
            names = [name for name in names if name in self._lists]
        return [self._case(name, path) for name in names for path in images.get(name, [None])]

    def read(self, case: Case) -> Image:
        """Read image and boxes.

        DataError where the case was listed with an error, a file is damaged, the image has other channels or another
        size than its annotation says, or an object has a class that is not known.
        """
        raise_errors(case)
        pixels, geometry = read_image(case.images[0], case_id=case.case_id, spatial_dims=2)
        pixels = in_channels(pixels, self.channels, case_id=case.case_id, file=case.images[0])
        path = case.references["boxes"]
        annotated = read_annotated(path, case_id=case.case_id)
        if annotated.shape is not None:
            check_shape(annotated.shape, pixels.shape[1:], case_id=case.case_id, file=path)
        objects = self._objects(annotated, path, case.case_id)
        return Image(case, pixels, Annotation(objects=objects), geometry)

    @cached_property
    def _ids(self) -> ClassIds:
        if self._given_ids is not None:
            return self._given_ids
        names: set[str] = set()
        for name, path in self._annotations.items():
            try:
                names |= {box.name for box in read_annotated(path, case_id=name).boxes}
            except DataError:
                continue  # told when the case is read
        if not names:
            expected = "annotations that name classes"
            remedy = "check the folder, or declare the classes in dataset.source.labels"
            raise DataError.of(Fault("unlistable", expected, "none", remedy, file=self.annotation_folder))
        return ClassIds.numbered(sorted(names))

    @cached_property
    def _annotations(self) -> Mapping[str, Path]:
        paths = visible(self.annotation_folder)
        return {composed(path.name)[: -len(".xml")]: path for path in paths if path.name.lower().endswith(".xml")}

    @cached_property
    def _lists(self) -> Mapping[str, tuple[str, ...]]:
        """The lists in which each name stands."""
        found: dict[str, tuple[str, ...]] = {}
        for split in _SPLITS:
            for name in () if self.list_folder is None else _names_in(self.list_folder / f"{split}.txt"):
                found[name] = (*found.get(name, ()), split)
        return found

    def _case(self, name: str, image: Path | None) -> Case:
        group, faults = self._groups.of(name)
        annotation, parts = self._annotations.get(name), self._lists.get(name, ())
        if image is None:
            file = self.image_folder / name
            remedy = "restore it, or take it out of annotations and lists"
            faults += (Fault("missing_image", "an image of this name", "none", remedy, name, file),)
        if annotation is None:
            file = self.annotation_folder / f"{name}.xml"
            remedy = "restore it, or write one without objects where there is none"
            faults += (Fault("missing_label", "an annotation", "none", remedy, name, file),)
        if len(parts) > 1 or (self._lists and not parts and self.unlisted == "fault"):
            remedy = "correct the lists" if parts else "add it to a list, or set dataset.source.unlisted"
            found = ", ".join(parts) or "none"
            faults += (Fault("split_lists", "to stand in one list", found, remedy, name, self.list_folder),)
        return Case(
            case_id=name,
            group=group,
            images=() if image is None else (image,),
            references={} if annotation is None else {"boxes": annotation},
            split=parts[0] if parts else None,
            faults=faults,
        )

    def _objects(self, annotated: Annotated, path: Path, case_id: str) -> Objects:
        boxes = [box for box in annotated.boxes if self.difficult == "keep" or not box.difficult]
        faults = self._ids.unknown([box.name for box in boxes], case_id=case_id, file=path)
        if self.one_based and any(min(box.ends) < 1 for box in boxes):
            lowest = min(min(box.ends) for box in boxes)
            remedy = "set dataset.source.one_based=false, or correct the boxes"
            faults += (Fault("box_counting", "boxes that count from 1", f"{lowest:g}", remedy, case_id, path),)
        if faults:
            raise DataError.of(*faults)
        labels = np.array([self._ids.get(box.name) for box in boxes], dtype=np.int64)
        ends = np.array([box.ends for box in boxes], dtype=np.float64).reshape(-1, 4)
        if self.one_based:
            ends -= [1, 1, 0, 0]
        return Objects.of(ends, labels).select(labels > 0)


def _names_in(path: Path) -> list[str]:
    """The names of a list, with or without ending; none where there is no such list."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        remedy = "save it as UTF-8 text"
        raise DataError.of(Fault("unreadable", "a name a line", f"an error ({error})", remedy, file=path)) from error
    return [composed(stem(line) or line) for line in map(str.strip, lines) if line]

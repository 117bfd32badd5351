"""Images whose objects are places: dots in a second image, or coordinates in a table."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Fault
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Case, Image
from medexp.data.sources._centre_lists import Column, Columns
from medexp.data.sources._class_ids import ClassIds
from medexp.data.sources._file_reader import with_data_files
from medexp.data.sources._files import ENDINGS, read_image
from medexp.data.sources._listed import (
    Groups,
    check_choice,
    checked_names,
    checked_root,
    in_channels,
    inside,
    name_of,
    natural,
    raise_errors,
)
from medexp.data.sources._name_patterns import NamePattern
from medexp.data.sources._place_files import TABLES, FilePerImage, Given, OneTable, PlaceFiles, PlacesInTable

_DOTS = ("any", "channel", "value")
_UNLISTED = ("fault", "empty")


class Points:
    """Images with the place of each object, for counting and for detection by points.

    Places come from a dot image for each image, of the same size, or from tables of coordinates: one for each image, or
    one for all that names the image in a column. Each object is a box without extent; that of a dot lies at its voxel's
    centre. In a table a row without coordinates says that its image shows no object.

    Args:
        root: Folder that holds the files.
        spatial_dims: 2 or 3.
        image_files: Path of the images below the root with `{id}` in the place of the case id; without an ending any
            that is read will do.
        point_files: The same for dot images or tables (.csv, .tsv, .txt); without `{id}` one table for all images.
        channels: Names of the image's channels.
        labels: Label id of each class name; objects of a class with id 0 are left out. The first is that of all objects
            where nothing tells them apart.
        dots: What a value other than 0 means in a dot image: "any", an object in whichever channel it is; "channel", an
            object of the class whose place in `labels` is that of the channel; "value", an object with this label id.
        connected: Dots that touch, if only at a corner, are one object at their middle; else each voxel is one.
        axis_columns: Columns of a table with the coordinates along the axes of the image's array, which are rows and
            columns (y, x) in a picture. Names, or numbers from 0 on where the table has no line of names.
        image_column: Column with the image's id or file name in a table for all images.
        label_column: Column with the class; None where all objects are alike.
        delimiter: What separates the columns.
        first_voxel: Coordinate of the first voxel's centre: 0 where voxels are counted from 0, 1 where they are counted
            from 1, 0.5 where whole numbers lie between voxels.
        unlisted: What an image is that no row of a table for all images names: a "fault", or "empty".
        test_last: How many cases, the last in natural order, are the test part.
        group_pattern: Regular expression with one group that finds the patient in the case id; None takes each case as
            a patient of its own.
        public: Whether the images may be shown to anyone.

    Raises:
        UsageError: A knob has an unfit value.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        spatial_dims: int = 2,
        image_files: str = "images/{id}",
        point_files: str = "points/{id}",
        channels: Sequence[str] = ("intensity",),
        labels: Mapping[str, int] | None = None,
        dots: str = "any",
        connected: bool = False,
        axis_columns: Sequence[Column] = ("y", "x"),
        image_column: Column | None = None,
        label_column: Column | None = None,
        delimiter: str = ",",
        first_voxel: float = 0.0,
        unlisted: str = "fault",
        test_last: int = 0,
        group_pattern: str | None = None,
        public: bool = False,
    ) -> None:
        check_choice("dots", dots, _DOTS)
        check_choice("unlisted", unlisted, _UNLISTED)
        if spatial_dims not in (2, 3) or test_last < 0:
            raise UsageError(
                f"points need spatial_dims 2 or 3 and test_last from 0 on, got {spatial_dims} and {test_last}"
            )
        self.root = checked_root(root, "images and dots or tables")
        self.spatial_dims = spatial_dims
        self.channels = checked_names("channels", channels)
        self.test_last = test_last
        self.public = public
        self.name = name_of(self.root)
        self._ids = ClassIds({"object": 1} if labels is None else labels)
        self.labels: Mapping[int, str] = self._ids.labels
        self._groups = Groups(group_pattern)
        self._image_files = NamePattern("image_files", image_files, endings=ENDINGS)
        columns = Columns(tuple(axis_columns), image_column, label_column, delimiter)
        if len(columns.axes) != spatial_dims:
            raise UsageError(
                f"dataset.source.axis_columns needs {spatial_dims} columns, one an axis, got {list(axis_columns)}"
            )
        tables = PlacesInTable(columns, self._ids, first_voxel)
        self._place_files: PlaceFiles = (
            FilePerImage(self.root, _pattern(point_files), tables=tables, dots=dots, connected=connected)
            if "{id}" in point_files
            else OneTable(_table(self.root, point_files, columns), tables=tables, unlisted=unlisted)
        )

    def cases(self) -> list[Case]:
        """All cases in natural order of their ids.

        Listed with their faults are images without places and places without image, and, from a table for all images,
        rows that cannot be read and classes that are not known.

        DataError where there is no image, or a table for all images is missing or has other columns.
        """
        images = self._image_files.find(self.root)
        given = self._place_files.listed(images)
        places = {path for one in given.values() for path in one.references.values()}
        kept = {case_id: [path for path in paths if path not in places] for case_id, paths in images.items()}
        if not any(kept.values()):
            expected, remedy = "images as dataset.source.image_files names them", "correct the path, or dataset.root"
            raise DataError.of(Fault("unlistable", expected, "none", remedy, file=self.root))
        listed: dict[str, Sequence[Path | None]] = {case_id: paths for case_id, paths in kept.items() if paths}
        ids = sorted({*listed, *given}, key=natural)
        tested = set(ids[max(0, len(ids) - self.test_last) :])
        return [
            self._case(case_id, path, given.get(case_id) or self._place_files.absent(case_id), tested)
            for case_id in ids
            for path in listed.get(case_id, [None])
        ]

    def read(self, case: Case) -> Image:
        """Read image and places.

        DataError where the case was listed with an error, a file is missing or damaged, the image has other channels, a
        dot image has another shape or is compressed with loss, or a class is not known.
        """
        raise_errors(case)
        pixels, geometry = read_image(case.images[0], case_id=case.case_id, spatial_dims=self.spatial_dims)
        pixels = in_channels(pixels, self.channels, case_id=case.case_id, file=case.images[0])
        places, labels = self._place_files.read(case, pixels.shape[1:])
        objects = Objects.of(np.concatenate([places, places], axis=1), labels).select(labels > 0)
        return Image(case, pixels, Annotation(objects=objects), geometry)

    def _case(self, case_id: str, image: Path | None, given: Given, tested: Collection[str]) -> Case:
        group, faults = self._groups.of(case_id)
        if image is None:
            remedy = "restore it, or take its places out"
            file = self.root / self._image_files.folder
            faults += (Fault("missing_image", "an image for its places", "none", remedy, case_id, file),)
        images = () if image is None else (image,)
        return Case(
            case_id=case_id,
            group=group,
            images=images,
            references=with_data_files(images, given.references),
            split="test" if case_id in tested else None,
            facts=given.facts,
            faults=(*faults, *given.faults),
        )


def _pattern(text: str) -> NamePattern:
    return NamePattern("point_files", text, endings=(*ENDINGS, *TABLES))


def _table(root: Path, text: str, columns: Columns) -> Path:
    """The table for all images."""
    path = inside(root, text)
    if path is None or not path.name.lower().endswith(TABLES) or columns.image is None:
        raise UsageError(
            f"dataset.source.point_files needs a path below root, either with {{id}} in its last part or of one table "
            f"({', '.join(TABLES)}) whose image_column is given, got {text!r}"
        )
    return path

"""A table with a row for each case: its files, boxes, labels, patient, fold and split."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from medexp.core.errors import UsageError
from medexp.core.faults import Fault
from medexp.core.types import Case, Image
from medexp.data.sources._cells import Cells, UnfitCellError
from medexp.data.sources._file_faults import is_there, missing
from medexp.data.sources._file_reader import (
    BOX_LABELS,
    BOXES,
    IMAGE_LABELS,
    INSTANCES,
    MASK,
    FileReader,
    checked_labels,
    only_label,
    with_data_files,
)
from medexp.data.sources._files import stem
from medexp.data.sources._grids import GridRule
from medexp.data.sources._listed import check_choice, checked_names, name_of
from medexp.data.sources._pictures import PICTURES
from medexp.data.sources._rows import Row, read_rows

_Parsed = TypeVar("_Parsed")
_FORMATS = ("xyxy", "xywh")


class Manifest:
    """Cases that a CSV file or a file with a JSON object in each line lists.

    Paths are relative to `root`; absolute ones need to lie below it, or below `moved_from`. A row that cannot be read,
    a file that is missing, or a path that leaves `root` is a fault of that case. Cells hold text; in JSON lines lists
    and numbers are taken as they are too.

    Args:
        manifest: The table, as a path or below `root`. JSON lines are known by the ending .jsonl, .ndjson or .json.
        root: Folder that paths are relative to; None takes the one of the table.
        spatial_dims: 2 or 3.
        channels: Column with the file of each channel by the channel's name; where all name one column, its file holds
            all channels. None stands for one channel, intensity, in the column image.
        labels: Name of each label id; labels in cells are names or ids. None stands for a background and a foreground.
        mask: Column of the masks; None where there are none, as for all columns below.
        instances: Column of the instance maps, whose ids tell objects apart. The label of an instance is that of most
            of its voxels in the mask, or without masks the only one there is.
        boxes: Column of the boxes as JSON, a list of lists of numbers in voxels, [] where there is none.
        box_labels: Column of the label of each box, as a JSON list or separated by `separator`; None where there is
            only one label.
        label: Column of the label of the whole image, or several separated by `separator`.
        case_id: Column of the case's name; None takes the path of its first image without the ending, with `__` between
            the parts.
        group: Column of the patient; None takes each case as a patient of its own.
        fold: Column of the number of the fold that validates a case; an empty cell gives none.
        split: Column of train, val or test; an empty cell gives none.
        box_format: "xyxy", lower corner and upper corner, or "xywh", lower corner and size; in 3D "xyxy" stands for
            x, y, z, x, y, z. In pictures x runs along the columns, and pixel i covers [i, i + 1).
        separator: What separates several labels in a cell.
        delimiter: What separates the cells of a CSV file.
        encoding: How its letters are stored.
        moved_from: Folder that absolute paths begin with, whose content lies in `root` now; None where nothing moved.
        value_map: Label id of some values of a mask, such as {255: 1}; other values are label ids themselves.
        spacing_mm: Distance between voxels along each axis of pictures and TIFF stacks, which have no physical scale;
            None leaves it unknown.
        geometry: What becomes of a mask on another grid than its image: "error"; "warn", it is taken as it is; or
            "resample_label".
        grid_tolerance_voxels: How far the grids of a case's files may lie apart, at the most distant voxel.
        check_headers: Refuse a NIfTI file whose sform and qform disagree or are both unset.
        public: Whether the images may be shown to anyone.

    Raises:
        UsageError: A knob has an unfit value.
    """

    def __init__(
        self,
        *,
        manifest: str | os.PathLike[str],
        root: str | os.PathLike[str] | None = None,
        spatial_dims: int = 2,
        channels: Mapping[str, str] | None = None,
        labels: Mapping[int, str] | None = None,
        mask: str | None = None,
        instances: str | None = None,
        boxes: str | None = None,
        box_labels: str | None = None,
        label: str | None = None,
        case_id: str | None = None,
        group: str | None = None,
        fold: str | None = None,
        split: str | None = None,
        box_format: str = "xyxy",
        separator: str = ";",
        delimiter: str = ",",
        encoding: str = "utf-8",
        moved_from: str | None = None,
        value_map: Mapping[int, int] | None = None,
        spacing_mm: Sequence[float] | None = None,
        geometry: str = "error",
        grid_tolerance_voxels: float = 0.05,
        check_headers: bool = True,
        public: bool = False,
    ) -> None:
        table = Path(manifest).expanduser()
        self.root = table.parent if root is None else Path(root).expanduser()
        self.manifest = table if root is None else self.root / table
        self.name = name_of(self.root)
        self.spatial_dims = spatial_dims
        columns = {"intensity": "image"} if channels is None else channels
        self.channels = checked_names("channels", list(columns))
        self.labels: Mapping[int, str] = checked_labels(labels, background=bool(mask or instances or boxes))
        self.public = public
        self.delimiter = delimiter
        self.encoding = encoding
        in_one_file = len(set(columns.values())) == 1
        self._images = tuple(columns.values())[: 1 if in_one_file else None]
        self._annotations = {MASK: mask, INSTANCES: instances}
        self._columns = {
            BOXES: boxes,
            BOX_LABELS: box_labels,
            IMAGE_LABELS: label,
            "case_id": case_id,
            "group": group,
            "fold": fold,
            "split": split,
        }
        alone = (instances is not None and mask is None) or (boxes is not None and box_labels is None)
        self._only_label = only_label(self.labels) if alone else 1
        self._cells = Cells(
            root=self.root,
            moved_from=moved_from,
            labels={name: label_id for label_id, name in self.labels.items()},
            separator=separator,
            spatial_dims=spatial_dims,
            sizes=box_format == "xywh",
        )
        self._check(box_format)
        self._reader = FileReader(
            spatial_dims=spatial_dims,
            channels=self.channels,
            grid=GridRule(geometry, grid_tolerance_voxels),
            spacing_mm=None if spacing_mm is None else tuple(map(float, spacing_mm)),
            value_map=value_map,
            instance_label=self._only_label,
            check_headers=check_headers,
        )

    def cases(self) -> list[Case]:
        """All cases in the order of the table; what is wrong with a row is told in the faults of its case.

        DataError where the table is missing or no such table, or lacks a column.
        """
        rows = read_rows(self.manifest, columns=self._needed, delimiter=self.delimiter, encoding=self.encoding)
        return [self._case(row) for row in rows]

    def read(self, case: Case) -> Image:
        """Read the files of a case; grids that differ and need not are told in the image's case.

        DataError where the case was listed with an error, a file is damaged or missing, the image has other channels,
        or a label is no whole number or lies on another grid.
        """
        return self._reader.read(case)

    def _check(self, box_format: str) -> None:
        check_choice("box_format", box_format, _FORMATS)
        if len(self._images) not in (1, len(set(self._images))):
            raise UsageError(
                f"dataset.source.channels needs a column for each channel, or one that holds all, got {self._images}"
            )
        if self._columns[BOXES] is not None and self._annotations[INSTANCES] is not None:
            raise UsageError("dataset.source.boxes follow from instances; set one of the two to null")
        if len(self.delimiter) != 1 or not self._cells.separator:
            found = (self.delimiter, self._cells.separator)
            raise UsageError(f"dataset.source needs a delimiter of one character and a separator, got {found}")
        try:
            codecs.lookup(self.encoding)
        except LookupError as error:
            raise UsageError(f"dataset.source.encoding needs a name such as utf-8 or cp1252, got {error}") from error

    @property
    def _needed(self) -> list[str]:
        columns = [*self._images, *self._annotations.values(), *self._columns.values()]
        return list(dict.fromkeys(column for column in columns if column is not None))

    def _case(self, row: Row) -> Case:
        if row.wrong:
            remedy = "correct the row; a cell with the delimiter in it needs quotes"
            case_id, found = f"line_{row.line}", f"{row.wrong} in line {row.line}"
            fault = Fault("unreadable_row", "rows that can be read", found, remedy, case_id, self.manifest)
            return Case(case_id, case_id, (), faults=(fault,))
        reading = _Reading(row, self.manifest)
        images = [reading.file(column, self._cells.path, "missing_image") for column in self._images]
        labels = {
            name: reading.file(column, self._cells.path, "missing_label")
            for name, column in self._annotations.items()
            if column is not None
        }
        paths = tuple(path for path in images if path is not None)
        name = reading.cell(self._columns["case_id"], partial(self._cells.text, check="unfit_case_id"))
        name = name or (self._path_id(images[0]) if images[0] is not None else f"line_{row.line}")
        case = Case(
            case_id=name,
            group=reading.cell(self._columns["group"], partial(self._cells.text, check="missing_group")) or name,
            images=paths,
            references=with_data_files(paths, {role: path for role, path in labels.items() if path is not None}),
            split=reading.cell(self._columns["split"], self._cells.split),
            fold=reading.cell(self._columns["fold"], self._cells.fold),
            facts=self._facts(reading, rows_first=bool(paths) and paths[0].name.lower().endswith(PICTURES)),
        )
        return replace(case, faults=tuple(replace(fault, case_id=name) for fault in reading.faults))

    def _facts(self, reading: _Reading, *, rows_first: bool) -> dict[str, Any]:
        """What the row itself says of the image."""
        facts: dict[str, Any] = {}
        image_labels = reading.cell(self._columns[IMAGE_LABELS], self._cells.image_labels)
        if image_labels is not None:
            facts[IMAGE_LABELS] = image_labels
        boxes = reading.cell(self._columns[BOXES], partial(self._cells.boxes, rows_first=rows_first))
        if boxes is not None:
            labels = reading.cell(self._columns[BOX_LABELS], partial(self._cells.box_labels, boxes=len(boxes)))
            facts |= {BOXES: boxes, BOX_LABELS: labels or [self._only_label] * len(boxes)}
        return facts

    def _path_id(self, path: Path) -> str:
        parts = path.relative_to(self.root).parts
        return "__".join((*parts[:-1], stem(parts[-1]) or parts[-1]))


class _Reading:
    """A row while it is read.

    Args:
        row: The row.
        table: The file that it is in.

    Attributes:
        faults: What is wrong with it, without the name of the case.
    """

    def __init__(self, row: Row, table: Path) -> None:
        self.row = row
        self.table = table
        self.faults: list[Fault] = []

    def cell(self, column: str | None, parse: Callable[[object], _Parsed]) -> _Parsed | None:
        """What a cell says; None where there is no such column, or the cell is unfit."""
        if column is None:
            return None
        content = self.row.cells.get(column)
        try:
            return parse(content)
        except UnfitCellError as unfit:
            text = repr(content) if len(repr(content)) <= 80 else f"{repr(content)[:77]}..."
            found = f"{text} in column {column} of line {self.row.line}"
            self.faults.append(Fault(unfit.check, unfit.expected, found, unfit.remedy, file=self.table))
            return None

    def file(self, column: str, parse: Callable[..., Path], check: str) -> Path | None:
        """The path in a cell, which is told where no file is there."""
        path = self.cell(column, partial(parse, check=check))
        if path is not None and not is_there(path):
            self.faults.append(replace(missing(path), check=check))
        return path

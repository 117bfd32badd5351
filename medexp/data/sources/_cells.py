"""What the cells of a table say of a case."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from medexp.core.errors import did_you_mean
from medexp.data.sources._listed import inside

SPLITS = ("train", "val", "test")


class UnfitCellError(Exception):
    """A cell that does not say what its column is for.

    Args:
        check: Name of the fault.
        expected: What is needed.
        remedy: What the user can do.
    """

    def __init__(self, check: str, expected: str, remedy: str) -> None:
        super().__init__(expected)
        self.check = check
        self.expected = expected
        self.remedy = remedy


@dataclass(frozen=True)
class Cells:
    """Reads cells; each method raises UnfitCellError.

    Attributes:
        root: Folder that paths stay in.
        moved_from: Folder that absolute paths begin with instead; None where nothing moved.
        labels: Label id of each name.
        separator: What separates several labels.
        spatial_dims: 2 or 3.
        sizes: Boxes are written as lower corner and size.
    """

    root: Path
    moved_from: str | None
    labels: Mapping[str, int]
    separator: str
    spatial_dims: int
    sizes: bool

    def path(self, cell: object, *, check: str) -> Path:
        """A file below the root; an empty cell is told under the name `check`."""
        if _is_empty(cell):
            raise UnfitCellError(check, "a file", "fill the cell, or take out the row")
        text = str(cell)
        written = PureWindowsPath(text)  # splits at both / and \
        for base in (self.moved_from, str(self.root.absolute())) if written.anchor else ():
            if base is not None and written.is_relative_to(PureWindowsPath(base)):
                text = "/".join(written.relative_to(PureWindowsPath(base)).parts)
        path = inside(self.root, text)
        if path is None:
            remedy = "write the path relative to it, or set dataset.source.moved_from to the folder that it began with"
            raise UnfitCellError("path_traversal", f"paths that stay in {self.root}", remedy)
        return path

    def image_labels(self, cell: object) -> list[int]:
        """Label ids of a whole image, each once."""
        return list(dict.fromkeys(self._label(item) for item in self._items(cell)))

    def box_labels(self, cell: object, boxes: int) -> list[int]:
        """Label id of each box."""
        ids = [self._label(item) for item in (self._items(cell) if not _is_empty(cell) else [])]
        if len(ids) != boxes:
            raise UnfitCellError("malformed_object", f"a label for each of {boxes} boxes", "correct the table")
        return ids

    def boxes(self, cell: object, *, rows_first: bool) -> list[list[float]]:
        """Lower ends along all axes of the array, then upper ends.

        Args:
            cell: A list of lists, or such a list as JSON.
            rows_first: The axes of the array run the other way round, as those of pictures do.

        Returns:
            A list for each box.
        """
        boxes = _parsed(cell)
        if not isinstance(boxes, list) or not all(_is_box(box, 2 * self.spatial_dims) for box in boxes):
            corners = "x1, y1, x2, y2" if self.spatial_dims == 2 else "x1, y1, z1, x2, y2, z2"
            raise UnfitCellError(
                "malformed_object", f"a JSON list such as [[{corners}], ...]", "write [] where there is no box"
            )
        step = -1 if rows_first else 1
        found = []
        for box in boxes:
            low, second = box[: self.spatial_dims], box[self.spatial_dims :]
            high = [start + size for start, size in zip(low, second, strict=True)] if self.sizes else second
            found.append([float(end) for end in (*low[::step], *high[::step])])
        return found

    def fold(self, cell: object) -> int | None:
        """Number of a fold."""
        if _is_empty(cell):
            return None
        number = _whole(cell)
        if number is None or number < 0:
            raise UnfitCellError("unreadable_row", "a whole number from 0 on", "correct the table")
        return number

    def split(self, cell: object) -> str | None:
        """Name of a split."""
        if _is_empty(cell):
            return None
        if cell not in SPLITS:
            hint = did_you_mean(str(cell), SPLITS)
            raise UnfitCellError("unknown_part", f"{', '.join(SPLITS)} or an empty cell", f"correct the table{hint}")
        return str(cell)

    def text(self, cell: object, *, check: str) -> str:
        """A name; an empty cell is told under the name `check`."""
        if _is_empty(cell):
            raise UnfitCellError(check, "a name", "fill the cell")
        return str(cell)

    def _items(self, cell: object) -> list[Any]:
        """The labels in a cell, at least one."""
        parsed = _parsed(cell) if isinstance(cell, str) and cell.startswith("[") else cell
        items = parsed if isinstance(parsed, list) else [item.strip() for item in str(cell).split(self.separator)]
        if _is_empty(cell) or not items or any(_is_empty(item) for item in items):
            remedy = "fill the cell; where no label holds, with the one that says so"
            raise UnfitCellError("missing_label", "a label", remedy)
        return items

    def _label(self, item: object) -> int:
        """Label id of a name, or of the id itself."""
        if str(item) in self.labels:
            return self.labels[str(item)]
        number = _whole(item)
        if number is None or number not in self.labels.values():
            hint = did_you_mean(str(item), self.labels)
            raise UnfitCellError("unknown_label", f"labels of {', '.join(self.labels)}", f"declare it in labels{hint}")
        return number


def _is_empty(cell: object) -> bool:
    return cell is None or cell == "" or cell == []


def _parsed(cell: object) -> Any:
    """A list as it is, or what a text says in JSON; None where it is none."""
    if not isinstance(cell, str):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return None


def _is_box(box: object, corners: int) -> bool:
    return isinstance(box, list) and len(box) == corners and all(_is_number(end) for end in box)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(cell: object) -> int | None:
    """A whole number that was written as one or as 3.0, as tables with gaps have it."""
    try:
        number = float(str(cell))
    except ValueError:
        return None
    return int(number) if math.isfinite(number) and number == int(number) else None

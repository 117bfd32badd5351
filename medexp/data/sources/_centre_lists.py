"""Tables with a place a row."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medexp.core.errors import DataError, UsageError, did_you_mean
from medexp.core.faults import Fault
from medexp.data.sources._class_ids import ClassIds
from medexp.data.sources._file_faults import missing, unreadable

Column = str | int
_NAMED = 3


@dataclass(frozen=True)
class Columns:
    """Where a table holds what.

    Attributes:
        axes: Columns of the coordinates, in the order of the axes of the image's array.
        image: Column of the image's name; None in a table of one image.
        label: Column of the class; None where all are alike.
        delimiter: What separates columns.
    """

    axes: tuple[Column, ...]
    image: Column | None
    label: Column | None
    delimiter: str

    def __post_init__(self) -> None:
        if len({type(column) for column in self.all}) > 1 or len(set(self.all)) < len(self.all):
            found = ", ".join(map(str, self.all))
            raise UsageError(f"dataset.source needs distinct columns, all by name or all by number, got {found}")
        if len(self.delimiter) != 1:
            raise UsageError(f"dataset.source.delimiter needs one letter, got {self.delimiter!r}")

    @property
    def numbered(self) -> bool:
        """Whether columns are given by their numbers, since the table has no line of names."""
        return all(isinstance(column, int) for column in self.all)

    @property
    def all(self) -> tuple[Column, ...]:
        """Every column that is looked for."""
        return tuple(column for column in (*self.axes, self.image, self.label) if column is not None)


@dataclass
class Centres:
    """The places in an image.

    Attributes:
        places: Coordinates as they are written.
        classes: Class of each; empty where the table has no such column.
        broken: What is wrong with some of the rows.
    """

    places: list[list[float]] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def add(self, other: Centres) -> None:
        """Add what further rows say of the image."""
        self.places += other.places
        self.classes += other.classes
        self.broken += other.broken

    def faults(self, ids: ClassIds, *, case_id: str, file: Path) -> tuple[Fault, ...]:
        """What is wrong with rows and classes."""
        unknown = ids.unknown(self.classes, case_id=case_id, file=file)
        if not self.broken:
            return unknown
        found = "; ".join(self.broken[:_NAMED])
        found += f" and {len(self.broken) - _NAMED} more" if len(self.broken) > _NAMED else ""
        remedy = "write numbers with a decimal point, or leave all coordinates empty where an image has no place"
        return (*unknown, Fault("malformed_row", "a number for each axis in each row", found, remedy, case_id, file))

    def labels(self, ids: ClassIds) -> list[int]:
        """Label id of each place; 0 where it is left out."""
        return [ids.get(name) or 0 for name in self.classes] or [ids.first] * len(self.places)


def read_centres(path: Path, columns: Columns, *, case_id: str | None = None) -> dict[str, Centres]:
    """Read a table.

    A row without any coordinate says that its image has no place, so that the image is known.

    Args:
        path: The file, in UTF-8; the first line names the columns unless they are given as numbers.
        columns: Where it holds what.
        case_id: The case, for errors, where the table is of one image.

    Returns:
        The places by name of the image, under "" in a table of one image.

    Raises:
        DataError: The file is missing, no text, or has no such columns.
    """
    rows = _rows(path, columns.delimiter, case_id)
    if columns.numbered:
        indices = {column: int(column) for column in columns.all}
    else:
        indices = _indices(rows.pop(0)[1] if rows else [], columns, path, case_id)
    found = {} if columns.image is not None else {"": Centres()}
    for number, cells in rows:
        values = {column: cells[index].strip() for column, index in indices.items() if index < len(cells)}
        name = "" if columns.image is None else values.get(columns.image, "")
        _add(found.setdefault(name, Centres()), values, columns, number)
    return found


def _rows(path: Path, delimiter: str, case_id: str | None) -> list[tuple[int, list[str]]]:
    """The rows that are not empty, with the number of their line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter)
            return [(reader.line_num, cells) for cells in reader if cells]
    except FileNotFoundError as error:
        raise DataError.of(missing(path, case_id=case_id)) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        fault = unreadable(path, error, kind="a table in UTF-8", case_id=case_id)
        raise DataError.of(replace(fault, remedy="save the table as text in UTF-8")) from error


def _indices(header: Sequence[str], columns: Columns, path: Path, case_id: str | None) -> dict[Column, int]:
    names = [name.strip() for name in header]
    absent = [str(column) for column in columns.all if column not in names]
    if absent:
        remedy = "name the columns or the delimiter as the table has them, in dataset.source"
        found = f"{', '.join(names)!r}{did_you_mean(absent[0], names)}"
        expected = f"the columns {', '.join(map(str, columns.all))} between {columns.delimiter!r}"
        raise DataError.of(Fault("missing_column", expected, found, remedy, case_id, path))
    return {column: names.index(str(column)) for column in columns.all}


def _add(centres: Centres, values: Mapping[Column, str], columns: Columns, number: int) -> None:
    """Put a row to its image, or tell what is wrong with it."""
    texts = [values.get(column, "") for column in columns.axes]
    if not any(texts):
        return
    try:
        place = [float(text) for text in texts]
    except ValueError:
        centres.broken.append(f"{', '.join(map(repr, texts))} in line {number}")
        return
    centres.places.append(place)
    if columns.label is not None:
        centres.classes.append(values.get(columns.label, ""))

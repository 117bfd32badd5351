"""The rows of a CSV file or of a file with a JSON object in each line."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medexp.core.errors import DataError, did_you_mean
from medexp.core.faults import Fault

JSON_LINES = (".jsonl", ".ndjson", ".json")
_DELIMITERS = {",": "','", ";": "';'", "\t": r"'\t'", "|": "'|'"}
# Byte order marks by which an encoding is known.
_MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        line: Its line in the file, from 1 on; of a row of several lines the last.
        cells: What it says by column.
        wrong: What keeps it from being read; empty where nothing does.
    """

    line: int
    cells: Mapping[str, Any] = field(default_factory=dict)
    wrong: str = ""


def read_rows(path: Path, *, columns: Sequence[str], delimiter: str, encoding: str) -> list[Row]:
    """The rows of a table; lines without content are passed over.

    Args:
        path: The file; JSON lines are known by the ending .jsonl, .ndjson or .json, all else is CSV.
        columns: Columns that are needed.
        delimiter: What separates the cells of a CSV file.
        encoding: How its letters are stored.

    Returns:
        The rows.

    Raises:
        DataError: The file is missing or no such text, or it lacks a column.
    """
    text = _text(path, encoding)
    if path.name.lower().endswith(JSON_LINES):
        rows = [_json_row(line, content) for line, content in enumerate(text.split("\n"), start=1) if content.strip()]
        known = {name for row in rows for name in row.cells}
    else:
        header, rows = _csv_rows(text, path, delimiter)
        known = set(header)
    if not rows:
        raise _refused(path, "rows", "none", "write a row for each case")
    absent = [name for name in columns if name not in known]
    if absent:
        found = ", ".join(sorted(known)[:20]) or f"none: line {rows[0].line} is {rows[0].wrong}"
        raise _refused(path, f"the columns {', '.join(absent)}", found, _remedy(absent[0], known, delimiter))
    return rows


def _remedy(absent: str, known: set[str], delimiter: str) -> str:
    joined = "".join(known) if len(known) == 1 else ""
    other = next((sign for sign in _DELIMITERS if sign != delimiter and sign in joined), None)
    if other is None:
        return f"name its columns in dataset.source{did_you_mean(absent, known)}"
    return f"its cells seem to be separated by {_DELIMITERS[other]}: set dataset.source.delimiter"


def _text(path: Path, encoding: str) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        remedy = "set dataset.source.manifest to the table, as a path or below dataset.root"
        raise _refused(path, "to be a file", type(error).__name__, remedy) from error
    try:
        text = content.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except (UnicodeDecodeError, LookupError) as error:
        guess = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "cp1252")
        remedy = f"save it as UTF-8, or set dataset.source.encoding, perhaps to {guess}"
        raise _refused(path, f"text encoded as {encoding}", str(error), remedy) from error
    if "\0" in text:
        raise _refused(path, "text", "NUL bytes", "set dataset.source.encoding, perhaps to utf-16, or choose the table")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _json_row(line: int, content: str) -> Row:
    try:
        cells = json.loads(content)
    except (ValueError, RecursionError) as error:
        return Row(line, wrong=f"no JSON: {error}")
    return Row(line, cells) if isinstance(cells, dict) else Row(line, wrong=f"{type(cells).__name__}, no JSON object")


def _csv_rows(text: str, path: Path, delimiter: str) -> tuple[list[str], list[Row]]:
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows = []
    try:
        header = [name.strip() for name in next(reader, [])]
        for cells in reader:
            if any(cell.strip() for cell in cells):
                wrong = "" if len(cells) == len(header) else f"{len(cells)} cells for {len(header)} columns"
                rows.append(Row(reader.line_num, dict(zip(header, map(str.strip, cells), strict=False)), wrong))
    except csv.Error as error:
        remedy = "correct the quotes there"
        raise _refused(path, "a CSV table", f"{error} in line {reader.line_num}", remedy) from error
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    if twice:
        raise _refused(path, "each column once", f"{', '.join(twice)} twice", "rename one of them")
    return header, rows


def _refused(path: Path, expected: str, found: str, remedy: str) -> DataError:
    return DataError.of(Fault("unlistable", expected, found, remedy, file=path))

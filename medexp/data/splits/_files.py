"""Files of case ids."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medexp.core.errors import DataError, UsageError
from medexp.data.splits.parts import NAMES

Lists = Mapping[str, Sequence[str]]

_DELIMITERS = ",;\t"
_FORM = '{"train": [ids], "val": [ids], "test": [ids]}'


def read_ids(path: Path) -> list[str]:
    """Ids of a text file, one a line.

    Args:
        path: The file.

    Returns:
        The ids; empty lines are left out.

    Raises:
        UsageError: The file is not there.
        DataError: It is no text.
    """
    return [line.strip() for line in _text(path).splitlines() if line.strip()]


def read_division(path: Path, *, fold: int) -> Lists:
    """The lists of one division.

    Args:
        path: A JSON or CSV file, see `GivenLists`.
        fold: Number of the division.

    Returns:
        Ids by name of the part.

    Raises:
        UsageError: The file is not there, or has no such division.
        DataError: It has another form.
    """
    ending = path.suffix.lower()
    if ending == ".json":
        return _of_json(path, fold=fold)
    if ending in (".csv", ".tsv"):
        return _of_table(path, fold=fold)
    raise UsageError(
        f"dataset.split.file needs a .json or .csv file, got {path}; give text files with an id a line as "
        "dataset.split.train_list, val_list and test_list"
    )


def _text(path: Path) -> str:
    if not path.is_file():
        raise UsageError(f"{path} is not there; give the file that holds the split (dataset.split)")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text ({error}); save it as such") from None


def _of_json(path: Path, *, fold: int) -> Lists:
    try:
        content = json.loads(_text(path))
    except ValueError as error:
        raise DataError(f"{path} is no valid JSON: {error}; correct it") from None
    divisions = content if isinstance(content, list) else [content]
    wrong = [division for division in divisions if not _is_division(division)]
    if not divisions or wrong:
        got = f"an entry {str(wrong[0])[:80]}" if wrong else "an empty list"
        raise DataError(f"{path} needs {_FORM}, or a list of them, one a fold, got {got}; correct it")
    _check_fold(fold, len(divisions), path)
    return {name: divisions[fold].get(name, []) for name in NAMES}


def _is_division(value: Any) -> bool:
    lists = [value[name] for name in NAMES if name in value] if isinstance(value, dict) else []
    return bool(lists) and all(isinstance(ids, list) and all(isinstance(i, str) for i in ids) for ids in lists)


def _of_table(path: Path, *, fold: int) -> Lists:
    text = _text(path)
    head = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
    columns = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    by = next((name for name in ("split", "fold") if name in columns), None)
    if "case_id" not in columns or by is None:
        raise DataError(
            f"{path} needs a column case_id and a column split or fold, got {', '.join(columns)}; name them so"
        )
    pairs = [(row["case_id"].strip(), row[by].strip()) for row in reader]
    return _by_name(pairs, path, fold=fold) if by == "split" else _by_fold(pairs, path, fold=fold)


def _by_name(pairs: Sequence[tuple[str, str]], path: Path, *, fold: int) -> Lists:
    for case_id, part in pairs:
        if part not in NAMES:
            raise DataError(f"{path}: column split needs {', '.join(NAMES)}, got {part!r} (case {case_id}); correct it")
    _check_fold(fold, 1, path)
    return {name: [case_id for case_id, part in pairs if part == name] for name in NAMES}


def _by_fold(pairs: Sequence[tuple[str, str]], path: Path, *, fold: int) -> Lists:
    for case_id, number in pairs:
        if not number.isdecimal():
            raise DataError(
                f"{path}: column fold needs whole numbers from 0 on, got {number!r} (case {case_id}); correct it"
            )
    folds = {int(number) for _, number in pairs}
    _check_fold(fold, max(folds, default=-1) + 1, path)
    return {
        "train": [case_id for case_id, number in pairs if int(number) != fold],
        "val": [case_id for case_id, number in pairs if int(number) == fold],
    }


def _check_fold(fold: int, number: int, path: Path) -> None:
    if not 0 <= fold < number:
        raise UsageError(f"fold needs 0..{number - 1}, the divisions of {path}, got {fold}")

"""The tables and lists of the NIH chest radiographs, as they lie on disk.

The table of labels has come in two versions and in copies that differ: one ends every line with a comma, so that its
last column is empty; names that hold a comma are cut by it (`OriginalImage[Width`, `Height]`); ages are numbers up to
414 or written as 058Y, and are not read. Boxes call Infiltrate what the table calls Infiltration.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medexp.core.errors import DataError, did_you_mean
from medexp.core.faults import Fault, Severity
from medexp.core.hashing import hash_file

NO_FINDING = "No Finding"
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
# Findings of which there are boxes.
BOXED = FINDINGS[:8]

# The corrected table comes first, where a folder has both.
_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
_BOXES = "BBox_List_2017.csv"
_LISTS = {"train_val": "train_val_list.txt", "test": "test_list.txt"}
# SHA-256 of copies whose rows, patients and labels were counted.
_COUNTED = {"dc1d2df67fdc1c5a7601d48699cda2b13dc2c4841488b4183dcf04884dbaca11"}
_OTHER_NAMES = {"Infiltrate": "Infiltration"}


@dataclass(frozen=True)
class Entry:
    """A row of the table of labels.

    Attributes:
        patient: The patient.
        findings: What the image shows, in the order of the row; empty for no finding.
        wrong: What is wrong with the row; empty where nothing is.
    """

    patient: str
    findings: tuple[str, ...]
    wrong: str = ""


@dataclass(frozen=True)
class Boxes:
    """The boxes of an image.

    Attributes:
        findings: What each box shows.
        corners: Of each box lower row, lower column, upper row and upper column, in pixels of 1024.
        wrong: What is wrong with a row; empty where nothing is.
    """

    findings: list[str]
    corners: list[list[float]]
    wrong: str = ""


@dataclass(frozen=True)
class Release:
    """What lies in the folder of the dataset.

    Attributes:
        root: The folder.
        entries: The row of each image.
        files: The file of each image that is on disk.
        copies: All files of images that are there more than once.
        boxes: The boxes of each image that has some; empty where they were not asked for.
        part_of: "train_val", "test" or "both" for each image; None where it was not asked for.
        faults: What is to be said of the table of labels as a whole.
    """

    root: Path
    entries: Mapping[str, Entry]
    files: Mapping[str, Path]
    copies: Mapping[str, Sequence[Path]]
    boxes: Mapping[str, Boxes]
    part_of: Mapping[str, str] | None
    faults: tuple[Fault, ...]

    @classmethod
    def read(cls, root: Path, *, boxes: bool, split: bool) -> Release:
        """Read tables and lists, and find the images.

        Args:
            root: The folder.
            boxes: Read the boxes too.
            split: Read the official split too.

        Returns:
            The release.

        Raises:
            DataError: A table or list is missing or no such table.
        """
        _check_present(root, boxes=boxes, split=split)
        table = next(root / name for name in _TABLES if (root / name).is_file())
        files, copies = _find_images(root)
        return cls(
            root=root,
            entries=_read_entries(table),
            files=files,
            copies=copies,
            boxes=_read_boxes(root / _BOXES) if boxes else {},
            part_of=_read_split(root) if split else None,
            faults=_faults_of_copy(table),
        )

    @property
    def sound(self) -> set[str]:
        """Images of whose rows, lists and files there is nothing to be told; most of them."""
        images = {image for image, entry in self.entries.items() if not entry.wrong} & self.files.keys()
        if self.part_of is not None:
            images &= {image for image, part in self.part_of.items() if part != "both"}
        return images - self.copies.keys() - self.boxes.keys()

    def faults_of(self, image: str, case_id: str) -> Iterator[Fault]:
        """What is wrong with the rows, the lists and the files of one image."""
        entry, boxes, part = self.entries.get(image), self.boxes.get(image), (self.part_of or {}).get(image)
        if entry is None:
            remedy = "add its row, or take the image out"
            yield Fault("missing_label", "a row in the table of labels", "none", remedy, case_id, self.files.get(image))
        for wrong in (entry.wrong if entry else "", boxes.wrong if boxes else ""):
            if wrong:
                remedy = "correct the table, or download it again"
                yield Fault("unreadable_row", "a row that can be read", wrong, remedy, case_id, self.root)
        if self.part_of is not None and part in (None, "both"):
            expected = f"to stand in {' or '.join(_LISTS.values())}"
            remedy = "correct the lists, or set official_split=false"
            yield Fault("unknown_part", expected, "neither" if part is None else "both", remedy, case_id, self.root)
        if image in self.copies:
            found = ", ".join(map(str, self.copies[image]))
            yield Fault("duplicate_image", "one file", found, "remove the copies", case_id, self.copies[image][0])
        if image not in self.files:
            remedy = "unpack the archive that holds it, or list those on disk only with only_present=true"
            yield Fault("missing_image", f"{image} in one of the image folders", "none", remedy, case_id, self.root)
        if entry and boxes and not set(boxes.findings) <= set(entry.findings):
            expected = f"boxes of its findings {', '.join(entry.findings) or NO_FINDING}"
            remedy = "compare the copies of both tables"
            found = f"boxes of {', '.join(boxes.findings)}"
            yield Fault("box_label", expected, found, remedy, case_id, self.root / _BOXES, Severity.WARNING)


def _check_present(root: Path, *, boxes: bool, split: bool) -> None:
    absent = [] if any((root / name).is_file() for name in _TABLES) else [" or ".join(_TABLES)]
    needed = [*([_BOXES] if boxes else []), *(_LISTS.values() if split else [])]
    absent += [name for name in needed if not (root / name).is_file()]
    if absent:
        hint = ", or leave the official split with official_split=false" if split else ""
        raise DataError(
            f"{root} needs the tables of the release, got no {', no '.join(absent)}; choose the folder that holds "
            f"them, or download them{hint}"
        )


def _read_entries(path: Path) -> dict[str, Entry]:
    table = _read_csv(path, ("Image Index", "Finding Labels", "Patient ID"))
    known = {text: _findings(text) for text in table["Finding Labels"].unique()}
    twice = set(table.loc[table["Image Index"].duplicated(), "Image Index"])
    entries: dict[str, Entry] = {}
    for image, text, patient in table.itertuples(index=False):
        findings, wrong = known[text]
        if image in twice:
            wrong = "several rows for the image"
        elif not patient:
            wrong = "no Patient ID"
        entries.setdefault(image, Entry(patient, findings, wrong))
    return entries


def _read_boxes(path: Path) -> dict[str, Boxes]:
    columns = ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]")
    table = _read_csv(path, columns)
    sides = table[list(columns[2:])].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    x, y, width, height = sides.T
    table["corners"] = np.stack([y, x, y + height, x + width], axis=1).tolist()
    table["Finding Label"] = table["Finding Label"].replace(_OTHER_NAMES)
    boxes = {}
    for image, rows in table.groupby("Image Index", sort=False):
        findings, corners = rows["Finding Label"].tolist(), rows["corners"].tolist()
        unknown = [name for name in findings if name not in BOXED]
        wrong = f"a box of {unknown[0]!r}{did_you_mean(unknown[0], BOXED)}" if unknown else ""
        if not np.isfinite(corners).all():
            wrong = "a box without four numbers"
        boxes[str(image)] = Boxes(findings, corners, wrong)
    return boxes


def _read_split(root: Path) -> dict[str, str]:
    listed = {part: (root / name).read_text(encoding="utf-8-sig").split() for part, name in _LISTS.items()}
    part_of = dict.fromkeys(listed["train_val"], "train_val")
    part_of.update({image: "both" if image in part_of else "test" for image in listed["test"]})
    return part_of


def _find_images(root: Path) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """The file of each name in images*/ and images*/images/, and all files of names that occur more than once."""
    files: dict[str, Path] = {}
    copies: dict[str, list[Path]] = {}
    for folder in sorted(path for path in root.glob("images*") if path.is_dir()):
        for part in (folder, folder / "images"):
            for name in sorted(os.listdir(part)) if part.is_dir() else ():
                if name.startswith(".") or not name.lower().endswith(".png"):
                    continue
                path = part / name
                if name in files:
                    copies.setdefault(name, [files[name]]).append(path)
                files.setdefault(name, path)
    return files, copies


def _read_csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Some columns of a table as stripped texts; DataError where they are not there."""
    try:
        with warnings.catch_warnings(action="ignore", category=pd.errors.ParserWarning):
            # With index_col=False a line that ends in a comma does not move its values by one column.
            table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise DataError(f"{path} should be a table, but reading it failed ({error}); download it again") from error
    table.columns = table.columns.str.strip()
    absent = [name for name in columns if name not in table.columns]
    if absent:
        raise DataError(
            f"{path} needs the columns {', '.join(columns)} with commas between them, got {list(table.columns)[:12]}; "
            "download it again, or save it with commas"
        )
    return table[list(columns)].apply(lambda column: column.str.strip())


def _findings(text: str) -> tuple[tuple[str, ...], str]:
    """The findings that a cell names, and what is wrong with it."""
    names = [_OTHER_NAMES.get(name.strip(), name.strip()) for name in text.split("|")]
    unknown = [name for name in names if name not in FINDINGS and name != NO_FINDING]
    if unknown:
        return (), f"the label {unknown[0]!r}{did_you_mean(unknown[0], FINDINGS)}"
    if NO_FINDING in names:
        return (), "" if names == [NO_FINDING] else f"both {NO_FINDING} and findings"
    return tuple(dict.fromkeys(names)), ""


def _faults_of_copy(path: Path) -> tuple[Fault, ...]:
    checksum = hash_file(path)
    if checksum in _COUNTED:
        return ()
    return (
        Fault(
            check="checksum",
            expected="one of the checksums of tables that were counted, since copies differ in labels",
            found=f"SHA-256 {checksum}",
            remedy="compare figures on it with those of the same copy only, or take Data_Entry_2017_v2020.csv",
            file=path,
            severity=Severity.WARNING,
        ),
    )

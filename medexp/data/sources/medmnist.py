"""Files of MedMNIST: many small images of one size with labels, in one .npz file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Fault
from medexp.core.geometry import Geometry
from medexp.core.types import Annotation, Case, Image
from medexp.data.sources._listed import checked_names, checked_root, raise_errors, visible
from medexp.data.sources._npz import NpzFile

_PARTS = ("train", "val", "test")
_COLOURS = ("red", "green", "blue")
_NONE = "none"
_LARGEST_ID = 2**16 - 1


class MedMNIST:
    """Any 2D or 3D file of MedMNIST, with the parts that it prescribes.

    The file holds train_images, train_labels and the same of val and test. Images are grey, or have colours along
    their last axis; a case is one of them, named by part and place. Labels are one number an image, or several columns
    of 0 and 1, of which any number may hold: then label id 0 is "none", and the columns have the ids from 1 on.

    A case has no file of its own: its facts say where it stands and hold the checksum that the file keeps of all images
    of its part. Images are read from a copy that is unpacked once into the cache.

    Source: J. Yang et al., MedMNIST v2, Scientific Data 2023; https://medmnist.com.

    Args:
        root: Folder that holds the file.
        cache_dir: Folder for the unpacked images.
        file: Name of the file; None where it is the only .npz file of the folder.
        spatial_dims: 2 or 3.
        class_names: Name of each class, in the order of the labels or of their columns; None names them by numbers.
        public: Whether the images may be shown to anyone.

    Raises:
        UsageError: A knob has an unfit value.
        DataError: The file is missing, damaged, or not of this layout.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        cache_dir: str | os.PathLike[str],
        file: str | None = None,
        spatial_dims: int = 2,
        class_names: Sequence[str] | None = None,
        public: bool = False,
    ) -> None:
        if spatial_dims not in (2, 3):
            raise UsageError(f"dataset.source.spatial_dims needs 2 or 3, got {spatial_dims}")
        if file is not None and Path(file).name != file:
            raise UsageError(f"dataset.source.file needs the name of a file in dataset.root, got {file!r}")
        self.root = checked_root(root, "a file of MedMNIST")
        self.cache_dir = Path(cache_dir).expanduser()
        self.file = file
        self.spatial_dims = spatial_dims
        self.class_names = None if class_names is None else checked_names("class_names", class_names)
        self.public = public
        self.name = "medmnist" if file is None else Path(file).stem
        self.channels: tuple[str, ...] = _COLOURS if self._coloured(self._parts[0]) else ("intensity",)
        self.labels: Mapping[int, str] = self._names_of_labels()

    @cached_property
    def path(self) -> Path:
        """The file; DataError where it is not named and there is not exactly one."""
        if self.file is not None:
            return self.root / self.file
        found = [path for path in visible(self.root) if path.suffix.lower() == ".npz"]
        if len(found) != 1:
            names = ", ".join(path.name for path in found[:5]) or "none"
            remedy = "name it in dataset.source.file" if found else "set dataset.root to the folder that holds it"
            raise DataError.of(Fault("unlistable", "one .npz file", names, remedy, file=self.root))
        return found[0]

    def _names_of_labels(self) -> dict[int, str]:
        tables = [table for table in self._labels.values() if table is not None]
        several = [table.shape[1] for table in tables if table.shape[1] > 1]
        if self.class_names is None:
            finite = np.concatenate([[0], *(table[np.isfinite(table)] for table in tables)])
            highest = int(finite.max().clip(0, _LARGEST_ID))
            names = tuple(f"class_{number}" for number in range(several[0] if several else highest + 1))
        else:
            names = self.class_names
        return dict(enumerate((_NONE, *names) if several else names))

    def cases(self) -> list[Case]:
        """All cases, part by part in the order of the file.

        Listed with their faults are images without label, or with one that has no name.

        DataError where the file is missing, damaged, or not of this layout.
        """
        return [case for part in self._parts for case in self._cases_of(part)]

    def read(self, case: Case) -> Image:
        """Read one image; DataError where it was listed with an error, or the file cannot be unpacked."""
        raise_errors(case)
        row = self._npz.row(f"{case.facts['part']}_images", case.facts["index"])
        pixels = np.moveaxis(row, -1, 0) if row.ndim > self.spatial_dims else row[None]
        return Image(
            case=case,
            pixels=np.ascontiguousarray(pixels, dtype=np.float32),
            annotation=Annotation(image_labels=tuple(case.facts["labels"])),
            geometry=Geometry.from_spacing(pixels.shape[1:], (1.0,) * self.spatial_dims, unit="px"),
        )

    @cached_property
    def _npz(self) -> NpzFile:
        return NpzFile(self.path, cache_dir=self.cache_dir)

    @cached_property
    def _parts(self) -> tuple[str, ...]:
        """The parts that have images of the expected shape."""
        parts = tuple(part for part in _PARTS if f"{part}_images" in self._npz.members)
        if not parts:
            found = ", ".join(self._npz.members) or "nothing"
            raise self._unfit("train_images, val_images or test_images", found, "choose a file of MedMNIST")
        kinds = {self._coloured(part) for part in parts}
        if len(kinds) > 1:
            raise self._unfit("images of one kind", "grey and coloured ones", "convert one of the parts")
        return parts

    def _coloured(self, part: str) -> bool:
        shape = self._npz.members[f"{part}_images"].shape
        if len(shape) == self.spatial_dims + 1:
            return False
        if len(shape) == self.spatial_dims + 2 and shape[-1] == len(_COLOURS):
            return True
        axes = "(n, rows, columns)" if self.spatial_dims == 2 else "(n, x, y, z)"
        remedy = f"set dataset.source.spatial_dims={5 - self.spatial_dims}, or choose another file"
        raise self._unfit(f"{part}_images of shape {axes}, and 3 behind for colours", str(shape), remedy)

    @cached_property
    def _labels(self) -> Mapping[str, Shaped[np.ndarray, "n columns"] | None]:
        """The labels of each part with an axis for columns; None where it has none."""
        return {part: self._labels_of(part) for part in self._parts}

    def _labels_of(self, part: str) -> Shaped[np.ndarray, "n columns"] | None:
        if f"{part}_labels" not in self._npz.members:
            return None
        table = self._npz.array(f"{part}_labels")
        table = table[:, None] if table.ndim == 1 else table
        n_images = self._npz.members[f"{part}_images"].shape[0]
        if table.ndim != 2 or len(table) != n_images or table.shape[1] == 0:
            remedy = "restore the file, since which label belongs to which image is not known"
            raise self._unfit(f"{part}_labels of shape ({n_images}, columns)", str(table.shape), remedy)
        return table

    def _cases_of(self, part: str) -> Iterator[Case]:
        images, table = self._npz.members[f"{part}_images"], self._labels[part]
        rows = [None] * images.shape[0] if table is None else table.tolist()
        known = sorted(self.labels)
        width = len(str(len(rows)))
        for index, row in enumerate(rows):
            case_id = f"{part}_{index:0{width}d}"
            labels = None if row is None else _label_ids(row, known)
            faults = () if labels is not None else (self._fault_of(row, part, case_id),)
            facts = {"part": part, "index": index, "crc32": images.crc32, "labels": labels or []}
            yield Case(case_id, group=case_id, images=(), split=part, facts=facts, faults=faults)

    def _fault_of(self, row: list[Any] | None, part: str, case_id: str) -> Fault:
        """What is wrong with the labels of an image."""
        if row is None:
            remedy = "restore them, or choose another file"
            return Fault("missing_label", f"{part}_labels", "none", remedy, case_id, self.path)
        several = len(row) > 1
        expected = (
            f"{len(self.labels) - 1} columns of 0 and 1" if several else f"a label from 0 to {len(self.labels) - 1}"
        )
        found = ", ".join(f"{value:g}" for value in row)
        remedy = "name all classes in dataset.source.class_names, or correct the file"
        return Fault("unknown_label", expected, found, remedy, case_id, self.path)

    def _unfit(self, expected: str, found: str, remedy: str) -> DataError:
        return DataError.of(Fault("unlistable", expected, found, remedy, file=self.path))


def _label_ids(row: list[Any], known: list[int]) -> list[int] | None:
    """The label ids of an image; None where a value stands for no class."""
    if len(row) == 1:
        return [int(row[0])] if row[0] in known else None
    if len(row) != len(known) - 1 or not set(row) <= {0, 1}:
        return None
    return [label for label, value in zip(known[1:], row, strict=True) if value]

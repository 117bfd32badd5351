"""Where the places of objects stand: in a file for each image, or in one table for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, Integer

from medexp.core.errors import DataError
from medexp.core.faults import Fault
from medexp.core.types import Case
from medexp.data.sources._centre_lists import Centres, Columns, read_centres
from medexp.data.sources._class_ids import ClassIds
from medexp.data.sources._dots import dots_of
from medexp.data.sources._files import ending_of, stem
from medexp.data.sources._listed import composed
from medexp.data.sources._name_patterns import NamePattern

TABLES = (".csv", ".tsv", ".txt")
Places = tuple[Float[np.ndarray, "n dims"], Integer[np.ndarray, "n"]]


@dataclass(frozen=True)
class Given:
    """What is known of the places in an image when it is listed.

    Attributes:
        references: The file that holds them.
        facts: What a table for all images says of them.
        faults: What is wrong.
    """

    references: Mapping[str, Path] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()


class PlaceFiles(Protocol):
    """Lists and reads the places of objects."""

    def listed(self, images: Mapping[str, Sequence[Path]]) -> dict[str, Given]:
        """What is given, by case id; other ids than those of the images may occur."""
        ...

    def absent(self, case_id: str) -> Given:
        """What is said of an image for which nothing is given."""
        ...

    def read(self, case: Case, shape: tuple[int, ...]) -> Places:
        """Places along the axes of the image (voxel i has its centre at i + 1/2), and the label id of each."""
        ...


@dataclass(frozen=True)
class PlacesInTable:
    """Turns rows of a table into places.

    Attributes:
        columns: Where the table holds what.
        ids: Label ids of the classes.
        first_voxel: Coordinate of the first voxel's centre.
    """

    columns: Columns
    ids: ClassIds
    first_voxel: float

    def places(self, coordinates: Sequence[Sequence[float]], labels: Sequence[int]) -> Places:
        """Coordinates as places along the axes of the image."""
        places = np.array(coordinates, dtype=np.float64).reshape(-1, len(self.columns.axes))
        return places - self.first_voxel + 0.5, np.array(labels, dtype=np.int64)


class FilePerImage:
    """A dot image or a table for each image.

    Args:
        root: Folder of the dataset.
        pattern: Names the files.
        tables: How tables are read.
        dots: What a value other than 0 means in a dot image, see `Points`.
        connected: Dots that touch are one object.
    """

    def __init__(self, root: Path, pattern: NamePattern, *, tables: PlacesInTable, dots: str, connected: bool) -> None:
        self.root = root
        self.pattern = pattern
        self.tables = tables
        self.dots = dots
        self.connected = connected

    def listed(self, images: Mapping[str, Sequence[Path]]) -> dict[str, Given]:
        """The file of each id."""
        return {case_id: self._given(case_id, paths) for case_id, paths in self.pattern.find(self.root).items()}

    def absent(self, case_id: str) -> Given:
        """A fault."""
        expected = f"a file {self.pattern.before}{case_id}{self.pattern.after} with its places"
        remedy = "restore it; where the image shows no object, add a file without places"
        folder = self.root / self.pattern.folder
        return Given(faults=(Fault("missing_label", expected, "none", remedy, case_id, folder),))

    def read(self, case: Case, shape: tuple[int, ...]) -> Places:
        """The places in the file of a case."""
        path, case_id = case.references["points"], case.case_id
        if ending_of(path.name) is not None:
            ids = (self.tables.ids.first,) if self.dots == "any" else self.tables.ids.in_order
            return dots_of(path, shape, meaning=self.dots, ids=ids, connected=self.connected, case_id=case_id)
        centres = read_centres(path, self.tables.columns, case_id=case_id)[""]
        faults = centres.faults(self.tables.ids, case_id=case_id, file=path)
        if faults:
            raise DataError.of(*faults)
        return self.tables.places(centres.places, centres.labels(self.tables.ids))

    def _given(self, case_id: str, paths: Sequence[Path]) -> Given:
        if len(paths) == 1:
            return Given({"points": paths[0]})
        found, remedy = ", ".join(path.name for path in paths), "remove all but one"
        return Given(faults=(Fault("several_labels", "one file with its places", found, remedy, case_id, paths[0]),))


class OneTable:
    """A table for all images, which names the image of each place.

    Args:
        path: The table.
        tables: How it is read.
        unlisted: What an image is that no row names: a "fault", or "empty".
    """

    def __init__(self, path: Path, *, tables: PlacesInTable, unlisted: str) -> None:
        self.path = path
        self.tables = tables
        self.unlisted = unlisted

    def listed(self, images: Mapping[str, Sequence[Path]]) -> dict[str, Given]:
        """The rows of each image, which the table may name by its id or by its file."""
        names = {
            composed(name): case_id
            for case_id, paths in images.items()
            for one in paths
            for name in (one.name, stem(one.name) or one.name)
        }
        found: dict[str, Centres] = {}
        for written, centres in read_centres(self.path, self.tables.columns).items():
            name = composed(PureWindowsPath(written).name)  # splits at both / and \
            found.setdefault(name if name in images else names.get(name, name), Centres()).add(centres)
        return {case_id: self._given(case_id, centres) for case_id, centres in found.items()}

    def absent(self, case_id: str) -> Given:
        """No place, or a fault."""
        if self.unlisted == "empty":
            return self._given(case_id, Centres())
        remedy = "add a row without coordinates where it shows no object, or set dataset.source.unlisted=empty"
        return Given(faults=(Fault("missing_label", "a row for this image", "none", remedy, case_id, self.path),))

    def read(self, case: Case, shape: tuple[int, ...]) -> Places:
        """The places that were listed."""
        return self.tables.places(case.facts["places"], case.facts["labels"])

    def _given(self, case_id: str, centres: Centres) -> Given:
        return Given(
            facts={"places": centres.places, "labels": centres.labels(self.tables.ids)},
            faults=centres.faults(self.tables.ids, case_id=case_id, file=self.path),
        )

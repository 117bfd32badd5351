"""Datasets in the raw layout of nnU-Net, version 2, in any format that is read."""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medexp.core.errors import DataError
from medexp.core.faults import Fault
from medexp.core.types import Case, Image
from medexp.data.sources._dataset_json import DatasetJson, Entry
from medexp.data.sources._file_faults import is_there, missing
from medexp.data.sources._file_reader import MASK, SPACING, FileReader, with_data_files
from medexp.data.sources._files import ENDINGS
from medexp.data.sources._grids import GridRule
from medexp.data.sources._listed import Groups, checked_root
from medexp.data.sources._pictures import JPEG, TIFF

# Masks have the ending of the images, and JPEG would change them.
_LOSSLESS = tuple(ending for ending in ENDINGS if ending not in JPEG)


class NnUNet:
    r"""The folder that nnU-Net calls DatasetNNN_Name: dataset.json, imagesTr and labelsTr.

    Each channel of a case is a file `NAME_0000.nii.gz`, and so on, or all channels are the colours of one picture
    `NAME_0000.png`. The cases are those that are found in imagesTr and labelsTr, or those that dataset.json lists;
    imagesTs, which has no labels, is not read. A case whose image or label is missing is listed with that fault.

    Source: documentation/dataset_format.md of nnU-Net (https://github.com/MIC-DKFZ/nnUNet).

    Args:
        root: Folder that holds dataset.json.
        spatial_dims: 2 or 3; a volume of one slice is an image of two axes.
        splits: File like nnU-Net's splits_final.json, as a path or as one below the root: a case is given the number of
            the fold that validates it. None gives no folds.
        group_pattern: Regular expression with one group that finds the patient in the case id, such as
            `(patient\d+)_`; None takes each case as a patient of its own.
        spacing_mm: Distance between voxels along each axis of pictures and TIFF stacks, which have no physical scale;
            None leaves it unknown, unless a file NAME.json beside a TIFF stack says it as nnU-Net has it.
        geometry: What becomes of a label on another grid than its image: "error"; "warn", it is taken as it is; or
            "resample_label".
        grid_tolerance_voxels: How far the grids of a case's files may lie apart, at the most distant voxel.
        check_headers: Refuse a NIfTI file whose sform and qform disagree or are both unset.
        public: Whether the images may be shown to anyone.

    Attributes:
        regions: Label ids of each region, where dataset.json declares classes that overlap (lists of ids); else empty.
        ignore_index: Label id of voxels that nobody annotated, for `task.ignore_index`; None where dataset.json
            declares no label "ignore".

    Raises:
        UsageError: A knob has an unfit value.
        DataError: dataset.json is missing or malformed.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        spatial_dims: int = 3,
        splits: str | None = None,
        group_pattern: str | None = None,
        spacing_mm: Sequence[float] | None = None,
        geometry: str = "error",
        grid_tolerance_voxels: float = 0.05,
        check_headers: bool = True,
        public: bool = False,
    ) -> None:
        self.root = checked_root(root, "dataset.json")
        self.spatial_dims = spatial_dims
        self.splits = None if splits is None else self.root / Path(splits).expanduser()
        self.public = public
        self._groups = Groups(group_pattern)
        self._declared = DatasetJson.read(self.root, endings=_LOSSLESS)
        self.name = self._declared.name
        self.channels: tuple[str, ...] = self._declared.channels
        self.labels: Mapping[int, str] = self._declared.labels
        self.regions: Mapping[str, tuple[int, ...]] = self._declared.regions
        self.ignore_index = self._declared.ignore_index
        self._reader = FileReader(
            spatial_dims=spatial_dims,
            channels=self.channels,
            grid=GridRule(geometry, grid_tolerance_voxels),
            spacing_mm=None if spacing_mm is None else tuple(map(float, spacing_mm)),
            check_headers=check_headers,
        )

    def cases(self) -> list[Case]:
        """All training cases in the order of their names, or of dataset.json where that lists them.

        DataError where dataset.json lists a path outside the folder, a case twice, or another number of cases than it
        declares, where a file is not named as nnU-Net has it, and where the splits are no lists of cases.
        """
        folds = {} if self.splits is None else _folds(self.splits)
        entries = self._declared.entries()
        unknown = sorted(set(folds) - {entry.case_id for entry in entries})
        return [self._case(entry, folds.get(entry.case_id, ())) for entry in entries] + [
            Case(case_id, case_id, (), fold=folds[case_id][0], faults=(self._unknown(case_id),)) for case_id in unknown
        ]

    def read(self, case: Case) -> Image:
        """Read image and label; grids that differ and need not are told in the image's case.

        DataError where the case was listed with an error, a file is damaged or missing, channels are wrong, or the
        label is no whole number or lies on another grid.
        """
        return self._reader.read(case)

    def _case(self, entry: Entry, folds: Sequence[int]) -> Case:
        group, faults = self._groups.of(entry.case_id)
        facts, unfit = self._facts(entry)
        absent = [_absent(path, entry) for path in (*entry.images, entry.label) if not is_there(path)]
        repeated = [self._repeated(entry.case_id, folds)] if len(folds) > 1 else []
        return Case(
            case_id=entry.case_id,
            group=group,
            images=entry.images,
            references=with_data_files(entry.images, {MASK: entry.label}),
            fold=folds[0] if folds else None,
            facts=facts,
            faults=(*faults, *unfit, *absent, *repeated),
        )

    def _facts(self, entry: Entry) -> tuple[dict[str, list[float]], tuple[Fault, ...]]:
        """The spacing that a file beside the images says of a TIFF stack."""
        path = entry.images[0].with_name(f"{entry.case_id}.json")
        if self.spatial_dims != 3 or not entry.images[0].name.lower().endswith(TIFF) or not is_there(path):
            return {}, ()
        content = _load(path)
        spacing = content.get("spacing") if isinstance(content, dict) else None
        if not isinstance(spacing, list) or len(spacing) != 3 or not all(_is_length(length) for length in spacing):
            expected, remedy = "{'spacing': [...]} with three lengths above 0", "correct the file"
            return {}, (Fault("unfit_spacing", expected, repr(content)[:80], remedy, entry.case_id, path),)
        return {SPACING: [float(length) for length in spacing]}, ()

    def _repeated(self, case_id: str, folds: Sequence[int]) -> Fault:
        found, remedy = " and ".join(map(str, folds)), "take it out of all folds but one"
        return Fault("several_folds", f"{case_id} in the validation of one fold", found, remedy, case_id, self.splits)

    def _unknown(self, case_id: str) -> Fault:
        remedy = "restore its files, or take it out of the splits"
        return Fault("missing_image", "files of each case that it names", "none", remedy, case_id, self.splits)


def _absent(path: Path, entry: Entry) -> Fault:
    check = "missing_label" if path == entry.label else "missing_image"
    return replace(missing(path, case_id=entry.case_id), check=check)


def _folds(path: Path) -> dict[str, list[int]]:
    """Numbers of the folds that validate each case; DataError where the file is no list of folds."""
    content = _load(path)
    folds: dict[str, list[int]] = defaultdict(list)
    for number, fold in enumerate(content if isinstance(content, list) else []):
        names = fold.get("val") if isinstance(fold, dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            break
        for name in names:
            folds[name].append(number)
    else:
        if folds:
            return folds
    expected = "a list of folds, {'train': [cases], 'val': [cases]}"
    raise DataError.of(Fault("unlistable", expected, repr(content)[:80], "correct dataset.source.splits", file=path))


def _load(path: Path) -> Any:
    """The content of a JSON file, or None where it cannot be read as such."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None


def _is_length(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf

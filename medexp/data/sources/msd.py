"""Datasets in the layout of the Medical Segmentation Decathlon or of nnU-Net."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Integer

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Fault
from medexp.core.geometry import Geometry
from medexp.core.types import Annotation, Case, Image
from medexp.data.sources._dataset_json import IGNORE, DatasetJson
from medexp.data.sources._grids import GridRule, check_same_grid
from medexp.data.sources._listed import Groups, raise_errors, told
from medexp.data.sources._nifti import (
    ENDINGS,
    Affine,
    check_finite,
    geometry_of,
    label_ids,
    read_nifti,
    refusal,
)


class MSD:
    r"""NIfTI volumes that a dataset.json declares.

    Read are the Decathlon's layout (a list of image and label; several channels lie along the last axis of one file),
    nnU-Net 1 (the same list, one file per channel) and nnU-Net 2 (the cases found in imagesTr and labelsTr). Only the
    training part, which has labels, is listed.

    Args:
        root: Folder that holds dataset.json.
        group_pattern: Regular expression with one group that finds the patient in the case id, such as
            `(patient\d+)_`; None takes each case as a patient of its own.
        public: Whether the images may be shown to anyone.
        geometry: What becomes of a label on another grid than its image: "error"; "warn", it is taken as it is; or
            "resample_label".
        grid_tolerance_voxels: How far the grids of a case's files may lie apart, at the most distant voxel.
        check_headers: Refuse a header whose sform and qform disagree or are both unset.

    Attributes:
        regions: Label ids of each region, where dataset.json declares classes that overlap (lists of ids); else empty.

    Raises:
        UsageError: A knob has an unfit value.
        DataError: dataset.json is missing or malformed.
    """

    spatial_dims = 3

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        group_pattern: str | None = None,
        public: bool = False,
        geometry: str = "error",
        grid_tolerance_voxels: float = 0.05,
        check_headers: bool = True,
    ) -> None:
        if root is None:
            raise UsageError("this dataset needs root, the folder that holds dataset.json; set dataset.root=FOLDER")
        self.public = public
        self.grid = GridRule(geometry, grid_tolerance_voxels)
        self.check_headers = check_headers
        self._groups = Groups(group_pattern)
        self._declared = DatasetJson.read(Path(root).expanduser(), endings=ENDINGS)
        if self._declared.ignore_index is not None:
            raise DataError(f"{root}/dataset.json declares an {IGNORE!r} label; read it with dataset=nnunet")
        self.name = self._declared.name
        self.channels: tuple[str, ...] = self._declared.channels
        self.labels: Mapping[int, str] = self._declared.labels
        self.regions: Mapping[str, tuple[int, ...]] = self._declared.regions

    def cases(self) -> list[Case]:
        """All training cases, in the order of the manifest's list or of their names.

        A case whose files are missing is listed too, so that reading it names the file; one in whose id `group_pattern`
        finds no patient is listed with that fault.

        DataError where dataset.json lists a path outside the folder, a case twice, or another number of cases than it
        declares.
        """
        found = []
        for entry in self._declared.entries():
            group, faults = self._groups.of(entry.case_id)
            found.append(Case(entry.case_id, group, entry.images, {"mask": entry.label}, faults=faults))
        return found

    def read(self, case: Case) -> Image:
        """Read image and label, and check that they lie on one grid; what need not is told in the image's case.

        DataError where the case was listed with an error, a file is missing or damaged, shapes, channels or grids
        differ, a voxel is not finite, or a label is no whole number or not declared.
        """
        raise_errors(case)
        pixels, geometry = self._read_image(case)
        if "mask" not in case.references:
            return Image(case=case, pixels=pixels, annotation=None, geometry=geometry)
        mask, warnings = self._read_mask(case, geometry)
        return Image(told(case, warnings), pixels, Annotation(mask=mask), geometry)

    def _read_image(self, case: Case) -> tuple[Float32[np.ndarray, "channels x y z"], Geometry]:
        where = f"case {case.case_id}, image"
        parts: list[np.ndarray] = []
        geometries: list[Geometry] = []
        for path in case.images:
            voxels, affine = self._read_file(path, where, dtype=np.float32)
            volume = self._channels_first(voxels, path, where, holds_all=len(case.images) == 1)
            check_finite(voxels, path=path, where=where)
            geometries.append(geometry_of(volume.shape[1:], affine, path=path, where=where))
            faults = check_same_grid(
                geometries[-1],
                geometries[0],
                tolerance_voxels=self.grid.tolerance_voxels,
                case_id=case.case_id,
                path=path,
            )
            if faults:
                raise DataError.of(*(replace(fault, remedy="bring all channels onto one grid") for fault in faults))
            parts.append(volume)
        if not parts:
            raise DataError(f"{where}: needs at least one file, got none")
        return np.concatenate(parts) if len(parts) > 1 else parts[0], geometries[0]

    def _channels_first(self, voxels: np.ndarray, path: Path, where: str, *, holds_all: bool) -> np.ndarray:
        channels = len(self.channels) if holds_all else 1
        if voxels.ndim == 3 and channels == 1:
            return voxels[None]
        if voxels.ndim == 4 and voxels.shape[3] == channels:
            return np.ascontiguousarray(np.moveaxis(voxels, 3, 0))
        expected = "(x, y, z)" if channels == 1 else f"(x, y, z, {channels})"
        raise refusal(
            where,
            Fault(
                check="wrong_channels" if voxels.ndim in (3, 4) else "wrong_dimensions",
                expected=f"shape {expected} for the channels {', '.join(self.channels)}",
                found=f"{voxels.shape}",
                remedy="correct the channels in dataset.json, or split the file",
                file=path,
            ),
        )

    def _read_mask(self, case: Case, image: Geometry) -> tuple[Integer[np.ndarray, "x y z"], tuple[Fault, ...]]:
        path, where = case.references["mask"], f"case {case.case_id}, label"
        voxels, affine = self._read_file(path, where, dtype=None)
        if voxels.ndim == 4 and voxels.shape[3] == 1:
            voxels = voxels[..., 0]
        if voxels.ndim != 3:
            remedy = "give the label three axes"
            raise refusal(where, Fault("wrong_dimensions", "shape (x, y, z)", f"{voxels.shape}", remedy, file=path))
        geometry = geometry_of(voxels.shape, affine, path=path, where=where)
        labels = label_ids(voxels, self.labels.keys(), path=path, where=where)
        return self.grid.apply(labels, geometry, image, case_id=case.case_id, path=path)

    def _read_file(self, path: Path, where: str, *, dtype: type | None) -> tuple[np.ndarray, Affine]:
        tolerance = self.grid.tolerance_voxels if self.check_headers else None
        return read_nifti(path, where=where, dtype=dtype, header_tolerance_voxels=tolerance)

"""Datasets in the layout of the Medical Segmentation Decathlon or of nnU-Net."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Integer

from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.types import Annotation, Case, Image
from medexp.data.sources._dataset_json import IGNORE, DatasetJson
from medexp.data.sources._listed import Groups
from medexp.data.sources._nifti import (
    ENDINGS,
    Affine,
    check_finite,
    geometry_of,
    grid_offset_voxels,
    label_ids,
    read_nifti,
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
        grid_tolerance_voxels: float = 0.05,
        check_headers: bool = True,
    ) -> None:
        if root is None:
            raise UsageError("this dataset needs root, the folder that holds dataset.json; set dataset.root=FOLDER")
        if not grid_tolerance_voxels >= 0:
            raise UsageError(f"grid_tolerance_voxels needs 0 or more, got {grid_tolerance_voxels}")
        self.public = public
        self.grid_tolerance_voxels = grid_tolerance_voxels
        self.check_headers = check_headers
        self.group_pattern = group_pattern
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

        A case whose files are missing is listed too, so that reading it names the file.

        DataError where dataset.json lists a path outside the folder, a case twice, or another number of cases than it
        declares, and where `group_pattern` does not fit a case id.
        """
        return [
            Case(
                case_id=entry.case_id,
                group=self._group(entry.case_id),
                images=entry.images,
                references={"mask": entry.label},
            )
            for entry in self._declared.entries()
        ]

    def read(self, case: Case) -> Image:
        """Read image and label, and check that they lie on one grid.

        DataError where a file is missing or damaged, shapes, channels or grids differ, a voxel is not finite, or a
        label is no whole number or not declared.
        """
        pixels, geometry = self._read_image(case)
        mask = self._read_mask(case, geometry) if "mask" in case.references else None
        annotation = None if mask is None else Annotation(mask=mask)
        return Image(case=case, pixels=pixels, annotation=annotation, geometry=geometry)

    def _group(self, case_id: str) -> str:
        group, faults = self._groups.of(case_id)
        if faults:
            raise DataError(
                f"case {case_id}: group_pattern {self.group_pattern!r} needs to find a patient in the case id, "
                f"got none; widen the pattern"
            )
        return group

    def _read_image(self, case: Case) -> tuple[Float32[np.ndarray, "channels x y z"], Geometry]:
        where = f"case {case.case_id}, image"
        parts: list[np.ndarray] = []
        geometry: Geometry | None = None
        for path in case.images:
            voxels, affine = self._read_file(path, where, dtype=np.float32)
            volume = self._channels_first(voxels, path, where, holds_all=len(case.images) == 1)
            check_finite(voxels, path=path, where=where)
            if geometry is None:
                geometry = geometry_of(volume.shape[1:], affine, path=path, where=where)
            self._check_grid(volume.shape[1:], affine, geometry, path, where)
            parts.append(volume)
        if geometry is None:
            raise DataError(f"{where}: needs at least one file, got none")
        return np.concatenate(parts) if len(parts) > 1 else parts[0], geometry

    def _channels_first(self, voxels: np.ndarray, path: Path, where: str, *, holds_all: bool) -> np.ndarray:
        channels = len(self.channels) if holds_all else 1
        if voxels.ndim == 3 and channels == 1:
            return voxels[None]
        if voxels.ndim == 4 and voxels.shape[3] == channels:
            return np.ascontiguousarray(np.moveaxis(voxels, 3, 0))
        expected = "(x, y, z)" if channels == 1 else f"(x, y, z, {channels})"
        raise DataError(
            f"{where}: {path} needs shape {expected} for the channels {', '.join(self.channels)}, got {voxels.shape}; "
            f"correct the channels in dataset.json, or split the file"
        )

    def _read_mask(self, case: Case, geometry: Geometry) -> Integer[np.ndarray, "x y z"]:
        path, where = case.references["mask"], f"case {case.case_id}, label"
        voxels, affine = self._read_file(path, where, dtype=None)
        if voxels.ndim == 4 and voxels.shape[3] == 1:
            voxels = voxels[..., 0]
        self._check_grid(voxels.shape, affine, geometry, path, where)
        return label_ids(voxels, self.labels.keys(), path=path, where=where)

    def _read_file(self, path: Path, where: str, *, dtype: type | None) -> tuple[np.ndarray, Affine]:
        tolerance = self.grid_tolerance_voxels if self.check_headers else None
        return read_nifti(path, where=where, dtype=dtype, header_tolerance_voxels=tolerance)

    def _check_grid(self, shape: tuple[int, ...], affine: Affine, geometry: Geometry, path: Path, where: str) -> None:
        """Refuse a file whose shape or place in the world is not that of the case's first image."""
        if shape != geometry.shape:
            raise DataError(
                f"{where}: {path} needs shape {geometry.shape} as the image has, got {shape}; resample it to the "
                f"image's grid, or check that it belongs to this case"
            )
        offset = grid_offset_voxels(shape, geometry.affine, affine)
        if not offset <= self.grid_tolerance_voxels:
            raise DataError(
                f"{where}: {path} needs the image's affine {geometry.affine.tolist()} within "
                f"{self.grid_tolerance_voxels} voxels, got {affine.tolist()}, up to {offset:.3g} voxels away; resample "
                f"it to the image's grid, or correct the header"
            )

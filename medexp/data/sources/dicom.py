"""A folder of DICOM files: series as volumes, or images as pictures, with segmentations and structure sets."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from medexp.core.errors import DataError, UsageError, did_you_mean
from medexp.core.faults import Fault
from medexp.core.hashing import hash_text
from medexp.core.types import Annotation, Case, Image
from medexp.data.sources._class_ids import BACKGROUND, ClassIds
from medexp.data.sources._dicom_headers import ENDINGS, Found, Header, Reference, scan
from medexp.data.sources._dicom_references import mask_of_picture, mask_of_volume
from medexp.data.sources._dicom_series import (
    Demands,
    faults_of_picture,
    faults_of_volume,
    ordered,
    read_picture,
    read_volume,
)
from medexp.data.sources._listed import check_choice, checked_names, checked_root, raise_errors

_CASE_IDS = ("folder", "series")
_GROUPS = ("patient", "folder")
_UNANNOTATED = ("fault", "list", "leave_out")


class DICOM:
    """Series of DICOM files in any nesting of folders; only headers are read when they are listed.

    In 3D a case is a series: its slices are ordered along their normal, values are rescaled, and axes run along rows,
    columns and slices as SimpleITK's reader has them, with the affine in millimetres to the right, front and head. A
    file that holds all frames of a series (enhanced CT and MR) is read as well. In 2D a case is one image file with the
    axes (rows, columns): a radiograph, a mammogram, an ultrasound still. Where high values are to be shown dark
    (MONOCHROME1) they are turned round, except in CT and PET, whose values are physical quantities.

    Annotations are found by the series that they refer to: segmentations (SEG), and in 3D structure sets (RTSTRUCT).
    All annotations of a series make one mask; where structures overlap, the one that `labels` names later is on top.
    A fractional segmentation counts from a half on. Files that are no images and no annotations are passed over, and so
    are hidden ones.

    Args:
        root: Folder that holds the files.
        spatial_dims: 3, a series is a case, or 2, an image file is a case.
        modalities: Which are listed, such as ["CT"]. None lists in 3D all but projections, photographs and
            screenshots, and in 2D only these.
        localisers: List scouts too, which are made to plan other images.
        min_slices: Fewest slices of a volume; a single one takes its depth from the slice's thickness.
        gap_tolerance: How far a distance between neighbouring slices may be from the usual one, as a share of it.
        tilt_tolerance_deg: Largest angle between the line through the slices and their normal.
        one_series_per_folder: Whether a folder with slices of two series is a fault.
        case_ids: "folder" names a case by its path below the root, with the number of the series where a folder has
            several; "series" by the number of the series and a hash of its UID.
        group_by: "patient" takes the patient's ID as group, "folder" the first folder below the root.
        labels: Label id of each segment's label or region's name; several names may have one id, the first names it,
            and those with id 0 are known and background. Names that are not listed are passed over. None numbers all
            names that are found in alphabetical order.
        unannotated: What becomes of an image without annotation where others have one, or where `labels` is given:
            "fault", "list" or "leave_out".
        grid_tolerance_voxels: How far an annotation may lie from the image's grid.
        public: Whether the images may be shown to anyone.

    Raises:
        UsageError: A knob has an unfit value.
    """

    name = "dicom"

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        spatial_dims: int = 3,
        modalities: Sequence[str] | None = None,
        localisers: bool = False,
        min_slices: int = 2,
        gap_tolerance: float = 0.05,
        tilt_tolerance_deg: float = 0.5,
        one_series_per_folder: bool = False,
        case_ids: str = "folder",
        group_by: str = "patient",
        labels: Mapping[str, int] | None = None,
        unannotated: str = "fault",
        grid_tolerance_voxels: float = 0.1,
        public: bool = False,
    ) -> None:
        check_choice("case_ids", case_ids, _CASE_IDS)
        check_choice("group_by", group_by, _GROUPS)
        check_choice("unannotated", unannotated, _UNANNOTATED)
        if spatial_dims not in (2, 3) or min_slices < 1:
            raise UsageError(
                f"dataset.source needs spatial_dims 2 or 3 and min_slices >= 1, got {spatial_dims} and {min_slices}"
            )
        tolerances = gap_tolerance, tilt_tolerance_deg, grid_tolerance_voxels
        if not all(0 <= value < limit for value, limit in zip(tolerances, (1, 90, 0.5), strict=True)):
            raise UsageError(
                "dataset.source needs gap_tolerance in [0, 1), tilt_tolerance_deg in [0, 90) and grid_tolerance_voxels "
                f"in [0, 0.5), got {tolerances}"
            )
        self.root = checked_root(root, "the files")
        self.spatial_dims = spatial_dims
        self.modalities = None if modalities is None else checked_names("modalities", modalities)
        self.localisers = localisers
        self.demands = Demands(min_slices, gap_tolerance, tilt_tolerance_deg)
        self.one_series_per_folder = one_series_per_folder
        self.case_ids = case_ids
        self.group_by = group_by
        self.unannotated = unannotated
        self.grid_tolerance_voxels = grid_tolerance_voxels
        self.public = public
        self._given = None if labels is None else (tuple(map(str, labels)), ClassIds(labels))

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """The modality, where all images are of one; this reads all headers unless `modalities` says so."""
        names = self.modalities or sorted({unit[0].modality for unit in self._units()})
        return (names[0] if len(names) == 1 and names[0] else "image",)

    @cached_property
    def labels(self) -> Mapping[int, str]:
        """Name of each label id; where the names are to be found, this reads all headers."""
        return self._ids.labels if self._names else {0: BACKGROUND}

    def cases(self) -> list[Case]:
        """All cases in the order of their first files.

        Listed with their faults are files that cannot be read, annotations of a series that is not there, series that
        are no volume, and images without annotation where one is expected.

        DataError where the folder is missing or holds nothing of what is looked for.
        """
        units = self._units()
        annotated = [(unit, self._references_of(unit)) for unit in units]
        if self.unannotated == "leave_out":
            annotated = [(unit, references) for unit, references in annotated if references]
        case_ids = self._unique_ids([unit for unit, _ in annotated])
        cases = [self._case(*pair, case_id) for pair, case_id in zip(annotated, case_ids, strict=True)]
        cases += [self._lone(path, fault) for path, fault in self._found.unreadable.items()]
        cases += [self._lone(reference.path, _MISSING_IMAGE) for reference in self._orphans()]
        if not cases:
            wanted = "DICOM images" if self.modalities is None else f"images of modality {' or '.join(self.modalities)}"
            raise DataError(
                f"{self.root} needs to hold {wanted}, got none among {len(self._found.images)} images and "
                f"{len(self._found.references)} annotations; choose another folder, or spatial_dims, modalities or "
                "unannotated"
            )
        return sorted(cases, key=lambda case: min(case.files))

    def read(self, case: Case) -> Image:
        """Read one case and its annotation.

        DataError where it was listed with an error, a file is damaged or missing, slices make no volume, or an
        annotation does not lie on the image's grid.
        """
        raise_errors(case)
        return self._read_picture(case) if self.spatial_dims == 2 else self._read_volume(case)

    def _read_volume(self, case: Case) -> Image:
        volume, geometry = read_volume(case.images, self.demands, case_id=case.case_id)
        annotation = None
        if case.references:
            paths, tolerance = tuple(case.references.values()), self.grid_tolerance_voxels
            mask = mask_of_volume(paths, self._painted, geometry, tolerance_voxels=tolerance, case_id=case.case_id)
            annotation = Annotation(mask=mask)
        return Image(case, volume[None], annotation, geometry)

    def _read_picture(self, case: Case) -> Image:
        picture, geometry, header = read_picture(case.images[0], case_id=case.case_id)
        annotation = None
        if case.references:
            paths, uid = tuple(case.references.values()), header.instance_uid
            mask = mask_of_picture(paths, self._painted, picture.shape, instance_uid=uid, case_id=case.case_id)
            annotation = Annotation(mask=mask)
        return Image(case, picture[None], annotation, geometry)

    @cached_property
    def _found(self) -> Found:
        if not self.root.is_dir():
            raise DataError(f"{self.root} is missing; root needs to be the folder that holds the files")
        return scan(self.root)

    @cached_property
    def _ids(self) -> ClassIds:
        return ClassIds.numbered(self._names) if self._given is None else self._given[1]

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """Names of structures in the order in which they are painted."""
        if self._given is not None:
            return self._given[0]
        return tuple(sorted({name for reference in self._references for name in reference.names}))

    @property
    def _painted(self) -> dict[str, int]:
        """Label id of each name, in the order in which they are painted."""
        return {name: self._ids.get(name) or 0 for name in self._names}

    @property
    def _references(self) -> list[Reference]:
        """Contours are drawn on slices, so that pictures have none."""
        return [one for one in self._found.references if self.spatial_dims == 3 or not one.structures]

    def _units(self) -> list[list[Header]]:
        """The images that make one case each."""
        chosen = [header for header in self._found.images if self._wanted(header)]
        if self.spatial_dims == 2:
            return [[header] for header in chosen]
        series: dict[str, list[Header]] = defaultdict(list)
        for header in chosen:
            series[header.series_uid].append(header)
        return [ordered(headers) for headers in series.values()]

    def _wanted(self, header: Header) -> bool:
        if header.localiser and not self.localisers:
            return False
        if self.modalities is not None:
            return header.modality in self.modalities
        return header.planar == (self.spatial_dims == 2)

    def _references_of(self, unit: Sequence[Header]) -> list[Reference]:
        instances = {header.instance_uid for header in unit}
        return [
            one
            for one in self._references
            if unit[0].series_uid in one.series and (not one.instances or one.instances & instances)
        ]

    def _orphans(self) -> list[Reference]:
        """Annotations of images that are not in the folder."""
        series = {header.series_uid for header in self._found.images}
        return [one for one in self._references if not series & set(one.series)]

    def _case(self, unit: Sequence[Header], references: Sequence[Reference], case_id: str) -> Case:
        """A case with what is wrong with it."""
        names = ["mask", *(f"mask_{number}" for number in range(2, len(references) + 1))]
        if self.spatial_dims == 2:
            faults = faults_of_picture(unit[0], case_id=case_id)
        else:
            faults = faults_of_volume(unit, self.demands, case_id=case_id)
        faults += self._faults_of_listing(unit, references, case_id)
        patient = unit[0].patient_id if self.group_by == "patient" else self._top_folder(unit[0].path)
        return Case(
            case_id=case_id,
            group=patient or case_id,
            images=tuple(header.path for header in unit),
            references={name: one.path for name, one in zip(names, references, strict=False)},
            facts={"modality": unit[0].modality},
            faults=tuple(faults),
        )

    def _faults_of_listing(self, unit: Sequence[Header], references: Sequence[Reference], case_id: str) -> list[Fault]:
        faults = []
        folder, patients = unit[0].path.parent, {header.patient_id for header in unit}
        if self.group_by == "patient" and (len(patients) > 1 or not unit[0].patient_id):
            found = f"{len(patients)} in {len(unit)} files" if len(patients) > 1 else "none"
            remedy = "fill it in, or take the first folder below the root as the group with group_by=folder"
            faults.append(Fault("missing_group", "one PatientID", found, remedy, case_id, unit[0].path))
        if self.one_series_per_folder and len(self._series_in[folder]) > 1:
            found = f"{len(self._series_in[folder])} in this folder"
            remedy = "move one of them away, or list each as a case with one_series_per_folder=false"
            faults.append(Fault("two_series", "one series", found, remedy, case_id, folder))
        if not references and self.unannotated == "fault" and (self._given is not None or self._references):
            expected = "a segmentation" if self.spatial_dims == 2 else "a segmentation or structure set"
            remedy = "restore it, or set unannotated to list or leave_out"
            faults.append(Fault("missing_label", f"{expected} of this series", "none", remedy, case_id, folder))
        names = sorted({name for one in references for name in one.names})
        if references and not set(names) & set(self._names):
            hint = did_you_mean(names[0], self._names) if names else ""
            remedy = f"name them in labels, those that are background with id 0{hint}"
            expected = f"a structure named {' or '.join(self._names)}"
            found = ", ".join(names) or "none with a name"
            faults.append(Fault("unknown_label", expected, found, remedy, case_id, references[0].path))
        return faults

    @cached_property
    def _series_in(self) -> Mapping[Path, set[str]]:
        """UIDs of the series of each folder."""
        series: dict[Path, set[str]] = defaultdict(set)
        for header in self._found.images:
            if self._wanted(header):
                series[header.path.parent].add(header.series_uid)
        return series

    def _unique_ids(self, units: Sequence[Sequence[Header]]) -> list[str]:
        ids = [self._readable_id(unit) for unit in units]
        for more in (_number_of, self._hash_of):
            counts = Counter(ids)
            ids = [f"{name}_{more(unit)}" if counts[name] > 1 else name for name, unit in zip(ids, units, strict=True)]
        return ids

    def _readable_id(self, unit: Sequence[Header]) -> str:
        if self.case_ids == "series":
            return f"{_number_of(unit)}_{self._hash_of(unit)}"
        if self.spatial_dims == 2:
            path = unit[0].path
            return self._path_id(path.with_suffix("") if path.name.lower().endswith(ENDINGS) else path)
        return self._path_id(Path(os.path.commonpath([header.path.parent for header in unit])))

    def _hash_of(self, unit: Sequence[Header]) -> str:
        return hash_text(unit[0].series_uid if self.spatial_dims == 3 else unit[0].instance_uid)[:8]

    def _path_id(self, path: Path) -> str:
        """A path below the root as one file name."""
        return "__".join(path.relative_to(self.root).parts) or self.root.resolve().name

    def _top_folder(self, path: Path) -> str:
        parts = path.relative_to(self.root).parts
        return parts[0] if len(parts) > 1 else ""

    def _lone(self, path: Path, fault: Fault) -> Case:
        """A file that belongs to no image, as a case that tells its fault."""
        case_id = self._path_id(path)
        return Case(case_id, case_id, (path,), faults=(replace(fault, case_id=case_id, file=path),))


_MISSING_IMAGE = Fault(
    check="missing_image",
    expected="the series that it annotates",
    found="none of its UIDs",
    remedy="restore the series, or take the annotation out",
)


def _number_of(unit: Sequence[Header]) -> str:
    """Number of the series, and of the image where it is one."""
    numbers = {"series": unit[0].series_number, "image": unit[0].instance_number if len(unit) == 1 else None}
    return "_".join(f"{name}_{number}" for name, number in numbers.items() if number is not None) or "series"

"""Image sequences in the layout of the Cell Tracking Challenge."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Fault
from medexp.core.geometry import Geometry
from medexp.core.tracks import Track
from medexp.core.types import Case, Image
from medexp.data.sources._class_ids import BACKGROUND
from medexp.data.sources._files import read_image, read_labels, stem
from medexp.data.sources._instances import annotation_of, numbered
from medexp.data.sources._listed import (
    check_choice,
    check_shape,
    checked_names,
    checked_root,
    in_channels,
    name_of,
    raise_errors,
    told,
    visible,
)
from medexp.data.sources._track_links import contradictions, tracks_by_markers
from medexp.data.sources._track_table import read_tracks

# Folder behind the sequence's name, folder in it, and what files are called, by where instances come from.
_INSTANCES = {
    "segmentation": ("_GT", "SEG", "man_seg"),
    "silver": ("_ST", "SEG", "man_seg"),
    "tracking": ("_GT", "TRA", "man_track"),
}
_UNANNOTATED = ("fault", "list", "leave_out")


class Tracks:
    """Frames of image sequences with instances and tracks, as the Cell Tracking Challenge publishes them.

    Beside a sequence 01 (t000.tif, t001.tif, ...) lie its references: 01_GT/SEG with the segmentation, which may exist
    for some of the frames only, 01_GT/TRA with a marker for each object in each frame and the table man_track.txt, and
    01_ST/SEG with a segmentation that was computed ("silver truth"). A case is a frame, and its group is the sequence.
    Segmentations of single planes of a volume (man_seg_000_012.tif) are not read.

    For linking, the facts of a case hold its sequence, the number of its frame, and the tracks that the table has in
    this frame, each with its identity, first and last frame, and parent (0 for none). Reading a case adds
    `instance_tracks`, the track of each instance in their order: the id that it has in the tracking reference, or, of a
    segmentation, that of the marker more than half of which it covers; 0 where there is none. Objects of a segmentation
    without a marker, and markers and table that contradict each other, are told in the faults of the image's case.

    Args:
        root: Folder that holds the sequences.
        spatial_dims: 2 or 3; in 3D a frame is a TIFF file with a page for each plane.
        sequences: Names of the sequences; None takes all whose names are numbers.
        instances: Where instances come from: "segmentation" (_GT/SEG), "tracking" (_GT/TRA) or "silver" (_ST/SEG).
        unannotated: What becomes of a frame without reference: "fault", "list" or "leave_out".
        channels: Name of the image's channel.
        class_name: What the objects are.
        spacing_mm: Distance between voxels along each axis of the array, which files do not tell; None counts pixels.
        public: Whether the images may be shown to anyone.

    Raises:
        UsageError: A knob has an unfit value.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        spatial_dims: int = 2,
        sequences: Sequence[str] | None = None,
        instances: str = "segmentation",
        unannotated: str = "fault",
        channels: Sequence[str] = ("intensity",),
        class_name: str = "cell",
        spacing_mm: Sequence[float] | None = None,
        public: bool = False,
    ) -> None:
        check_choice("instances", instances, tuple(_INSTANCES))
        check_choice("unannotated", unannotated, _UNANNOTATED)
        if spatial_dims not in (2, 3):
            raise UsageError(f"dataset.source.spatial_dims needs 2 or 3, got {spatial_dims}")
        if spacing_mm is not None and (len(spacing_mm) != spatial_dims or min(spacing_mm) <= 0):
            raise UsageError(f"dataset.source.spacing_mm needs {spatial_dims} values above 0, got {list(spacing_mm)}")
        self.root = checked_root(root, "the sequences")
        self.spatial_dims = spatial_dims
        self.sequences = None if sequences is None else checked_names("sequences", sequences)
        self.instances = instances
        self.unannotated = unannotated
        self.channels = checked_names("channels", channels)
        self.labels: Mapping[int, str] = {0: BACKGROUND, 1: class_name}
        self.spacing_mm = None if spacing_mm is None else tuple(map(float, spacing_mm))
        self.public = public
        self.name = name_of(self.root)

    def cases(self) -> list[Case]:
        """All frames, sequence by sequence.

        Listed with their faults are frames without reference, references without frame, and, with the first frame of a
        sequence, what is wrong with its table.

        DataError where there is no sequence.
        """
        names = self.sequences or [path.name for path in visible(self.root) if path.name.isdecimal() and path.is_dir()]
        cases = [case for name in names for case in self._cases_of(name)]
        if not cases:
            expected, remedy = "folders 01, 02, ... of frames t000.tif, t001.tif, ...", "correct dataset.root"
            raise DataError.of(Fault("unlistable", expected, "none", remedy, file=self.root))
        return cases

    def read(self, case: Case) -> Image:
        """Read a frame, its instances and their tracks.

        DataError where the case was listed with an error, or a file is damaged or of another shape.
        """
        raise_errors(case)
        path, case_id = case.images[0], case.case_id
        pixels, geometry = read_image(path, case_id=case_id, spatial_dims=self.spatial_dims)
        pixels = in_channels(pixels, self.channels, case_id=case_id, file=path)
        if self.spacing_mm is not None:
            geometry = Geometry.from_spacing(geometry.shape, self.spacing_mm)
        if "instances" not in case.references:
            return Image(case, pixels, None, geometry)
        instances, ids = numbered(self._ids_in("instances", case, pixels.shape[1:]))
        annotation = annotation_of(instances, [1] * len(ids))
        return Image(self._linked(case, instances, ids), pixels, annotation, geometry)

    def _cases_of(self, sequence: str) -> list[Case]:
        frames = _numbered_files(self.root / sequence, "t")
        suffix, folder, prefix = _INSTANCES[self.instances]
        annotated = _numbered_files(self.root / f"{sequence}{suffix}" / folder, prefix)
        tracking = self.root / f"{sequence}_GT" / "TRA"
        markers = {} if self.instances == "tracking" else _numbered_files(tracking, "man_track")
        table = tracking / "man_track.txt"
        tracks, faults = read_tracks(table) if self.instances == "tracking" or table.exists() else ({}, ())
        cases = []
        for number in sorted({*frames, *annotated}):
            references = {"instances": annotated.get(number), "markers": markers.get(number)}
            case = self._case(sequence, number, frames.get(number), references, tracks)
            if annotated.get(number) is not None or self.unannotated != "leave_out":
                cases.append(case)
        if cases and faults:
            of_table = tuple(replace(fault, case_id=cases[0].case_id) for fault in faults)
            cases[0] = replace(cases[0], faults=(*of_table, *cases[0].faults))
        return cases

    def _case(
        self,
        sequence: str,
        number: int,
        frame: Path | None,
        references: Mapping[str, Path | None],
        tracks: Mapping[int, Track],
    ) -> Case:
        case_id, faults = f"{sequence}_t{number:03d}", []
        if frame is None:
            remedy = "restore it, or remove its reference"
            faults.append(Fault("missing_image", f"frame {number}", "none", remedy, case_id, self.root / sequence))
        if references["instances"] is None and self.unannotated == "fault":
            suffix, folder, prefix = _INSTANCES[self.instances]
            remedy = "restore it, or set dataset.source.unannotated to list or leave_out"
            file = self.root / f"{sequence}{suffix}" / folder / f"{prefix}{number:03d}.tif"
            faults.append(Fault("missing_label", "a reference of this frame", "none", remedy, case_id, file))
        present = [asdict(track) for track in tracks.values() if track.first <= number <= track.last]
        return Case(
            case_id=case_id,
            group=sequence,
            images=() if frame is None else (frame,),
            references={name: path for name, path in references.items() if path is not None},
            facts={"sequence": sequence, "frame": number, "tracks": present},
            faults=tuple(faults),
        )

    def _ids_in(self, name: str, case: Case, shape: tuple[int, ...]) -> Integer[np.ndarray, "*spatial"]:
        path = case.references[name]
        ids, _ = read_labels(path, case_id=case.case_id, spatial_dims=self.spatial_dims)
        check_shape(ids.shape, shape, case_id=case.case_id, file=path)
        if ids.min(initial=0) < 0:
            remedy = "number objects from 1 on"
            raise DataError.of(Fault("instance_ids", "ids from 0 on", str(ids.min()), remedy, case.case_id, path))
        return ids

    def _linked(
        self, case: Case, instances: Integer[np.ndarray, "*spatial"], ids: Integer[np.ndarray, "instances"]
    ) -> Case:
        """The case with the track of each instance, and warnings where references contradict each other."""
        if self.instances == "tracking":
            marked, tracks, file = ids, ids.tolist(), case.references["instances"]
        elif "markers" in case.references:
            file = case.references["markers"]
            markers, marked = numbered(self._ids_in("markers", case, instances.shape))
            tracks = tracks_by_markers(instances, markers, marked)
        else:
            return case
        listed = [track["identity"] for track in case.facts["tracks"]]
        warnings = contradictions(tracks, marked.tolist(), listed, case_id=case.case_id, file=file)
        return told(replace(case, facts={**case.facts, "instance_tracks": tracks}), warnings)


def _numbered_files(folder: Path, prefix: str) -> dict[int, Path]:
    """The files of a folder that are called by a prefix and a number."""
    found = {}
    for path in visible(folder):
        number = (stem(path.name) or "").removeprefix(prefix)
        if number.isdecimal() and path.name.startswith(prefix):
            found[int(number)] = path
    return found

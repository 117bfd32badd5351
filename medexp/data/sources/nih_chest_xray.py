"""NIH ChestX-ray14: 112,120 frontal chest radiographs of 30,805 patients with 14 findings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Fault
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Case, Image
from medexp.data.sources._files import read_image
from medexp.data.sources._listed import check_choice, checked_root, in_channels, raise_errors
from medexp.data.sources._nih_tables import BOXED, FINDINGS, NO_FINDING, Release

_LABELS = ("findings", "normal_abnormal")
_ANNOTATIONS = ("labels", "boxes")
# Boxes are given in pixels of images of this size.
_SIDE = 1024


class NIHChestXray:
    """The official release as it lies on disk.

    In the folder are the image folders (images_001 to images_012, with or without an inner folder images), a table of
    labels (Data_Entry_2017_v2020.csv, else Data_Entry_2017.csv), BBox_List_2017.csv, train_val_list.txt and
    test_list.txt. A group is a patient. Images of test_list.txt are the test part; the release has no validation part,
    so that folds are drawn from train_val_list.txt by patient.

    There are 984 boxes on 880 images, of 8 of the findings, and all on images of test_list.txt; what else these images
    show has no box. Weak masks are derived from boxes (`ObjectMask`): each box is filled with its finding, and where
    boxes overlap, the smaller is on top.

    Source: X. Wang et al., ChestX-ray8, CVPR 2017; https://nihcc.app.box.com/v/ChestXray-NIHCC.

    Args:
        root: Folder that holds the tables and the image folders.
        labels: "findings", 14 that may hold together, or "normal_abnormal", whether there is any.
        annotation: "labels" of whole images, or "boxes", of images that have some.
        negatives: With boxes, how many images without findings are listed too, spread evenly over the table; None lists
            all of them.
        official_split: Keep the images of test_list.txt apart. None does so for labels of images only, since all boxes
            are in that list.
        only_present: Pass over rows whose image is not on disk; else each is a fault.

    Attributes:
        labels: Name of each label id; 0 is no finding, and background where there are boxes.

    Raises:
        UsageError: A knob has an unfit value, or boxes are to be kept apart for the test.
    """

    name = "nih_chest_xray"
    spatial_dims = 2
    channels: tuple[str, ...] = ("X-ray",)
    public = True

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        labels: str = "findings",
        annotation: str = "labels",
        negatives: int | None = 0,
        official_split: bool | None = None,
        only_present: bool = True,
    ) -> None:
        check_choice("labels", labels, _LABELS)
        check_choice("annotation", annotation, _ANNOTATIONS)
        if negatives is not None and negatives < 0:
            raise UsageError(f"dataset.source.negatives needs a number >= 0, or null for all, got {negatives}")
        if annotation == "boxes" and official_split:
            raise UsageError(
                "dataset.source.official_split cannot be kept with annotation=boxes, since all boxes are in the test "
                "part; set it to false"
            )
        self.root = checked_root(root, "tables and images of the release")
        self.annotation = annotation
        self.negatives = negatives
        self.official_split = annotation == "labels" if official_split is None else official_split
        self.only_present = only_present
        self._ids = _label_ids(labels, FINDINGS if annotation == "labels" else BOXED)
        self.labels: Mapping[int, str] = _label_names(self._ids, labels, whole_images=annotation == "labels")

    def cases(self) -> list[Case]:
        """All cases in the order of the table, then those that are not in it.

        Listed with their faults are rows that cannot be read, images without a row, copies of an image, images in
        neither or both parts of the official split, and, unless only those on disk are asked for, rows without image.
        A warning about the table as a whole stands with the first case.

        DataError where a table or list is missing, or nothing is left to list.
        """
        release = Release.read(self.root, boxes=self.annotation == "boxes", split=self.official_split)
        sound = release.sound
        cases = [self._case(release, image, is_sound=image in sound) for image in self._listed(release)]
        if not cases:
            raise DataError(
                f"{self.root} needs images of the release in folders such as images_001, got {len(release.files)} PNG "
                "files there, none of which is asked for; unpack the archives, or set only_present=false"
            )
        return [replace(cases[0], faults=(*release.faults, *cases[0].faults)), *cases[1:]]

    def read(self, case: Case) -> Image:
        """Read one case.

        DataError where it was listed with an error, or its image is missing, damaged, in colour, or has boxes and not
        the size that they are for.
        """
        raise_errors(case)
        path = case.images[0]
        pixels, geometry = read_image(path, case_id=case.case_id, spatial_dims=2)
        # Some images of the release are stored in colour, with equal channels.
        pixels = in_channels(pixels, self.channels, case_id=case.case_id, file=path)
        if self.annotation == "boxes" and geometry.shape != (_SIDE, _SIDE):
            remedy = "take the image as it was released, since its boxes are given in pixels of that size"
            expected, found = f"shape {(_SIDE, _SIDE)}", f"{geometry.shape}"
            raise DataError.of(Fault("shape_mismatch", expected, found, remedy, case.case_id, path))
        return Image(case, pixels, self._annotation(case), geometry)

    def _annotation(self, case: Case) -> Annotation:
        labels = case.facts["labels"]
        if self.annotation == "labels":
            return Annotation(image_labels=tuple(labels))
        objects = Objects.of(np.array(case.facts["boxes"], dtype=np.float64).reshape(-1, 4), np.array(labels))
        return Annotation(objects=objects)

    def _listed(self, release: Release) -> list[str]:
        """The images that are cases, in the order of the table."""
        if self.annotation == "labels":
            chosen: set[str] | None = None
            beside = [image for image in release.files if image not in release.entries]
        else:
            chosen = {*release.boxes, *self._negatives(release)}
            beside = [image for image in release.boxes if image not in release.entries]
        images = [*(image for image in release.entries if chosen is None or image in chosen), *beside]
        return [image for image in images if image in release.files] if self.only_present else images

    def _negatives(self, release: Release) -> list[str]:
        """Images without findings, spread evenly over the table."""
        images = [
            image
            for image, entry in release.entries.items()
            if not (entry.findings or entry.wrong) and (image in release.files or not self.only_present)
        ]
        if self.negatives is None or self.negatives >= len(images):
            return images
        return [images[number * len(images) // self.negatives] for number in range(self.negatives)]

    def _case(self, release: Release, image: str, *, is_sound: bool) -> Case:
        case_id = image[:-4] if image.lower().endswith(".png") else image
        entry, boxes = release.entries.get(image), release.boxes.get(image)
        facts: dict[str, Any]
        if self.annotation == "labels":
            facts = {"labels": sorted({self._ids[name] for name in entry.findings} if entry else ()) or [0]}
        elif boxes is None or boxes.wrong:
            facts = {"labels": [], "boxes": []}
        else:
            facts = {"labels": [self._ids[name] for name in boxes.findings], "boxes": boxes.corners}
        return Case(
            case_id=case_id,
            group=(entry.patient if entry else "") or case_id,
            images=(release.files.get(image) or self.root / image,),
            split="test" if release.part_of is not None and release.part_of.get(image) == "test" else None,
            facts=facts,
            faults=() if is_sound else tuple(release.faults_of(image, case_id)),
        )


def _label_ids(labels: str, findings: Sequence[str]) -> dict[str, int]:
    """Label id of each finding: one of its own, or the same for all."""
    return {name: number if labels == "findings" else 1 for number, name in enumerate(findings, start=1)}


def _label_names(ids: Mapping[str, int], labels: str, *, whole_images: bool) -> dict[int, str]:
    if labels == "findings":
        return {0: NO_FINDING if whole_images else "background"} | {label: name for name, label in ids.items()}
    return {0: "normal" if whole_images else "background", 1: "abnormal"}

"""What is looked at in a dataset: the name of each check, what it finds, and how grave that is by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from medexp.core.faults import Fault, Severity
from medexp.core.types import Case


class Level(StrEnum):
    """How grave a check's faults are taken."""

    ERROR = "error"
    WARNING = "warning"
    IGNORE = "ignore"


@dataclass(frozen=True)
class Check:
    """One of the checks.

    Attributes:
        about: What is wrong where it finds something, in a clause.
        level: How grave that is unless the configuration says otherwise.
        fixed: Nothing can be trained on such a case, so that the level cannot be changed; the case can be left out.
    """

    about: str
    level: Level = Level.ERROR
    fixed: bool = False


_WARNING, _IGNORE = Level.WARNING, Level.IGNORE
_OF_EVERY_DATASET: Mapping[str, Check] = {
    # The list of cases.
    "unlistable": Check("the source cannot list its cases", fixed=True),
    "duplicate_case_id": Check("two cases have one id", fixed=True),
    "colliding_case_id": Check("two ids differ in their case of letters or their Unicode form only"),
    "unfit_case_id": Check("an id is empty, or too long for a file name", _WARNING),
    "group_in_two_parts": Check("a group (patient) stands in two splits or folds", fixed=True),
    "unfit_split": Check("the cases cannot be split as configured", fixed=True),
    "lossy_mask": Check("a mask is stored as JPEG, which changes labels at every border"),
    # What reading a case tells.
    "unreadable": Check("a case cannot be read", fixed=True),
    "wrong_dimensions": Check("image, grid or annotation have another number of axes or another shape", fixed=True),
    "wrong_channels": Check("an image has another number of channels than the dataset declares", fixed=True),
    "channel_order": Check("the channels of a case look like those of the other cases in another order", _WARNING),
    # Intensities.
    "not_finite": Check("voxels are NaN or infinite"),
    "constant_image": Check("all voxels have one value"),
    "constant_channel": Check("one of several channels has one value everywhere", _WARNING),
    "wrapped_intensities": Check(
        "unsigned 16-bit values were stored as signed ones, so that the brightest are negative"
    ),
    "hounsfield_range": Check("a CT has values that are no Hounsfield units"),
    "image_listed_twice": Check("two cases read the same image from the same file"),
    "equal_images": Check("the images of two cases are equal", _WARNING),
    "leaked_image": Check("an image of one part of the split is found in another part too", _WARNING),
    # The grid.
    "implausible_spacing": Check("the voxel spacing cannot be that of the image"),
    "extreme_anisotropy": Check("patch or strides do not fit voxels that are much longer along one axis", _WARNING),
    "smaller_than_patch": Check("an image is smaller than the patch and is padded with zeros", _WARNING),
    "patch_not_divisible": Check("the patch cannot be divided by the strides of the network"),
    # Labels of voxels and of images.
    "unannotated": Check("a case has no annotation at all"),
    "undeclared_label": Check("a label id is not among those that the dataset declares"),
    "empty_label": Check("a mask has no foreground", _WARNING),
    "no_objects": Check("an image has no object", _IGNORE),
    "class_absent": Check("a class occurs in no case of a part of the split", _WARNING),
    # Objects.
    "instance_ids": Check("instance ids are not 1 to n, or exceed what their data type holds"),
    "disconnected_instance": Check("one instance id lies on parts that do not touch", _WARNING),
    "box_not_finite": Check("a box has an end that is NaN or infinite"),
    "box_order": Check("a box ends before it starts"),
    "box_without_extent": Check("a box has no extent along an axis"),
    "box_outside": Check("a box leaves the image"),
    "boxes_in_mm": Check("boxes are in millimetres where voxels are needed"),
}
# What a source tells of its own files; where it tells an error, it does not read the case, whatever the level.
_OF_SOURCES: Mapping[str, Check] = {
    "missing_file": Check("a file is missing", fixed=True),
    "missing_image": Check("an annotation has no image", fixed=True),
    "missing_label": Check("an image has no annotation", fixed=True),
    "path_traversal": Check("a path leaves the dataset's folder", fixed=True),
    "unreadable_row": Check("a row of a table cannot be read", fixed=True),
    "unknown_label": Check("a class has no declared name", fixed=True),
    "non_integer_label": Check("label values are no whole numbers", fixed=True),
    "shape_mismatch": Check("an annotation has another shape than its image"),
    "spacing_mismatch": Check("an annotation has another spacing than its image"),
    "affine_mismatch": Check("an annotation has another origin or direction than its image"),
    "unsure_grid": Check("sform and qform of a NIfTI header disagree, or both are unset", fixed=True),
    "singular_affine": Check("a header's grid is none: a singular affine, or a spacing of 0", fixed=True),
    "two_series": Check("a folder holds slices of two DICOM series", fixed=True),
    "slice_gap": Check("slices are missing or unevenly spaced", fixed=True),
    "gantry_tilt": Check("slices do not lie above one another", fixed=True),
    "rescale_missing": Check("a CT has no rescale slope", fixed=True),
    "overlapping_objects": Check("objects share voxels", _WARNING),
    "object_without_voxels": Check("an object is hidden by others, or has no extent", _WARNING),
    "track_ids": Check("tracks and their table contradict each other", _WARNING),
    "image_count": Check("there is another number of images than expected", _WARNING),
    "image_shape": Check("an image has another shape than expected", _WARNING),
    "box_label": Check("a box is of a finding that the table does not have", _WARNING),
    "checksum": Check("a file is none of the copies that were counted", _WARNING),
    # Lists and tables.
    "missing_column": Check("a table lacks a column", fixed=True),
    "missing_group": Check("no patient is found for a case", fixed=True),
    "unknown_part": Check("a table says of no part of the split, or of two, to which a case belongs", fixed=True),
    "split_lists": Check("a case stands in no list of the split, or in two", fixed=True),
    "case_in_two_parts": Check("given lists put a case in two parts", fixed=True),
    "several_folds": Check("a case is validated by two folds", fixed=True),
    "unknown_case": Check("a given list names a case that is none", fixed=True),
    "class_names": Check("two classes have one label id, or the file of their names cannot be read", fixed=True),
    # Files of a case.
    "several_images": Check("a case has several images where one is needed", fixed=True),
    "duplicate_image": Check("an image lies in two folders", fixed=True),
    "several_files": Check("a case has several files of one kind", fixed=True),
    "several_labels": Check("a case has several annotations of one kind", fixed=True),
    "missing_annotation": Check("a derivation needs an annotation that the case has not", fixed=True),
    "unwritable_cache": Check("an unpacked archive cannot be kept", fixed=True),
    # Objects.
    "duplicate_id": Check("images or annotations share an id", fixed=True),
    "malformed_object": Check("an object's place or size cannot be read", fixed=True),
    "malformed_row": Check("a list of places has a row without numbers", fixed=True),
    "unfit_segmentation": Check("a polygon or run-length mask cannot be drawn", fixed=True),
    "several_objects": Check("a mask of one object has several values", fixed=True),
    "instance_class": Check("an object lies on several classes of the mask", fixed=True),
    "instance_without_label": Check("an object lies on the background of the mask", fixed=True),
    "track_table": Check("lines of a track table cannot be read", fixed=True),
    "box_counting": Check("boxes count from 0 where they are said to count from 1", _WARNING),
    # DICOM.
    "missing_tag": Check("a header lacks a tag that the grid follows from", fixed=True),
    "unfit_spacing": Check("a header's distance between voxels is none, or contradicts the slices", fixed=True),
    "unfit_grid": Check("a segmentation lies on another grid than its images", fixed=True),
    "several_frames": Check("a file of one slice has several frames", fixed=True),
    "mixed_frames": Check("files of one frame and of several lie together", fixed=True),
    "mixed_shapes": Check("the slices of a series have different shapes", fixed=True),
    "mixed_spacings": Check("the slices of a series have different spacings", fixed=True),
    "mixed_orientations": Check("the slices of a series have different orientations", fixed=True),
    "duplicate_instance": Check("an image of a series is there twice", fixed=True),
    "duplicate_position": Check("two slices lie at one place", fixed=True),
    "too_few_slices": Check("a series has fewer slices than a volume needs", fixed=True),
    "unknown_compression": Check("an image is compressed in a way that cannot be read", fixed=True),
}
CHECKS: Mapping[str, Check] = {**_OF_EVERY_DATASET, **_OF_SOURCES}


def fault(
    check: str,
    *,
    expected: str,
    found: str,
    remedy: str,
    case: Case | None = None,
    file: Path | None = None,
    severity: Severity | None = None,
) -> Fault:
    """A fault of one of the checks, as grave as the check unless a severity is given."""
    level = CHECKS[check].level
    grave = Severity.ERROR if level is Level.ERROR else Severity.WARNING
    return Fault(
        check=check,
        expected=expected,
        found=found,
        remedy=remedy,
        case_id=None if case is None else case.case_id,
        file=file,
        severity=severity or grave,
    )

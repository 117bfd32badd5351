"""Axial slices of the MNI152 average brain with grey and white matter, from files that nilearn ships."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.types import Annotation, Case, Image
from medexp.data.sources._nifti import Affine, read_nifti

_PARTS = ("t1", "gm", "wm")


class MNIWhiteMatter:
    """A real MR image on any machine, without a download: slices of the ICBM 2009a T1-weighted average.

    A pixel's label is the most probable of background, grey and white matter by the tissue maps that belong to the
    average, the background's share being what the two others leave; at a tie the first of these three wins.

    All slices show one brain, and that an average of many: a score on them says that a pipeline works, and nothing
    about new patients. Neighbouring slices are nearly identical, so a group is a block of slices that follow one
    another, and the last slices of each block are left out.

    Source: Fonov et al., NeuroImage 54 (2011) 313, as packed by nilearn.

    Args:
        spatial_dims: 2; the one volume that there is cannot be split into training and test.
        block_slices: Slices per group.
        gap_slices: Slices left out at the end of each block.
        min_brain_area_mm2: Smallest area of brain in a slice.

    Raises:
        UsageError: nilearn is not installed, or a knob has an unfit value.
    """

    name = "mni_white_matter"
    spatial_dims = 2
    channels: tuple[str, ...] = ("T1",)
    labels: Mapping[int, str] = {0: "background", 1: "grey matter", 2: "white matter"}
    public = True

    def __init__(
        self,
        *,
        spatial_dims: int = 2,
        block_slices: int = 8,
        gap_slices: int = 2,
        min_brain_area_mm2: float = 5000.0,
    ) -> None:
        if spatial_dims != 2:
            raise UsageError(
                f"mni_white_matter needs spatial_dims 2, got {spatial_dims}: it is one brain, and one volume cannot be "
                f"split; for 3D take phantom_3d or a dataset of your own"
            )
        if not 0 <= gap_slices < block_slices:
            raise UsageError(
                f"mni_white_matter needs gap_slices from 0 to below block_slices ({block_slices}), got {gap_slices}"
            )
        self.block_slices = block_slices
        self.gap_slices = gap_slices
        self.min_brain_area_mm2 = min_brain_area_mm2
        self._files = tuple(_data_folder() / f"mni_icbm152_{part}_tal_nlin_sym_09a_converted.nii.gz" for part in _PARTS)

    def cases(self) -> list[Case]:
        """The slices with enough brain, from the neck upwards; DataError where there is none."""
        image, _, affine = _volume(self._files)
        areas_mm2 = (image > 0).sum(axis=(0, 1)) * abs(np.linalg.det(affine[:2, :2]))
        kept = [
            z
            for z in map(int, np.flatnonzero(areas_mm2 >= self.min_brain_area_mm2))
            if z % self.block_slices < self.block_slices - self.gap_slices
        ]
        if not kept:
            raise DataError(
                f"mni_white_matter: min_brain_area_mm2 {self.min_brain_area_mm2} leaves no slice, the largest has "
                f"{areas_mm2.max():.0f} mm2; lower it"
            )
        return [self._case(z) for z in kept]

    def _case(self, z: int) -> Case:
        """The group has the first slice of its block as its name."""
        first = z - z % self.block_slices
        references = dict(zip(("grey_matter", "white_matter"), self._files[1:], strict=True))
        return Case(case_id=f"slice_{z:03d}", group=f"block_{first:03d}", images=self._files[:1], references=references)

    def read(self, case: Case) -> Image:
        """Read one slice; its first axis runs from left to right, its second from back to front.

        DataError where the case is no slice of this volume, or nilearn's files are missing or damaged.
        """
        image, labels, affine = _volume(self._files)
        number = case.case_id.removeprefix("slice_")
        if not number.isdecimal() or int(number) >= image.shape[2]:
            raise DataError(f"case {case.case_id}: needs a slice from 0 to {image.shape[2] - 1} of {self._files[0]}")
        z = int(number)
        in_plane = affine[np.ix_([0, 1, 3], [0, 1, 3])]  # the volume's axes are those of its world
        return Image(
            case=case,
            pixels=image[None, :, :, z].astype(np.float32),
            annotation=Annotation(mask=labels[:, :, z].copy()),
            geometry=Geometry(shape=image.shape[:2], affine=in_plane),
        )


def _data_folder() -> Path:
    """Where nilearn keeps its images; nilearn itself, slow to import, is not needed to read them."""
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise UsageError("mni_white_matter needs nilearn, which is not installed; pip install medexp[demo]")
    return Path(spec.origin).parent / "datasets" / "data"


@functools.lru_cache(maxsize=1)
def _volume(files: tuple[Path, ...]) -> tuple[UInt8[np.ndarray, "x y z"], UInt8[np.ndarray, "x y z"], Affine]:
    """Image, labels and affine; one volume in memory per process, 17 MB."""
    (image, affine), (grey, _), (white, _) = (
        read_nifti(path, where=f"mni_white_matter, {part}", dtype=np.uint8, header_tolerance_voxels=None)
        for part, path in zip(_PARTS, files, strict=True)
    )
    return image, _most_probable(grey, white), affine


def _most_probable(
    grey: UInt8[np.ndarray, "*spatial"], white: UInt8[np.ndarray, "*spatial"]
) -> UInt8[np.ndarray, "*spatial"]:
    """Label of the largest share: 0 the rest, 1 grey, 2 white, in units of 1/255."""
    rest = 255 - grey.astype(np.int16) - white
    return np.argmax(np.stack([rest, grey, white]), axis=0).astype(np.uint8)

"""Volumes in the layout of the Decathlon and of nnU-Net, each spoilt in one way of the list of bad inputs."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from planted import Planted

SHAPE = (16, 16, 12)
AFFINE = np.diag([-0.8, -0.8, 2.0, 1.0])
SOUND = 10


@dataclass
class Decathlon:
    """A folder with dataset.json, imagesTr and labelsTr.

    Attributes:
        root: The folder.
        modality: What dataset.json declares.
        names: The cases, in the order of the list.
    """

    root: Path
    modality: str = "CT"
    names: list[str] = field(default_factory=list)

    def image(self, name: str) -> Path:
        return self.root / "imagesTr" / f"{name}.nii.gz"

    def label(self, name: str) -> Path:
        return self.root / "labelsTr" / f"{name}.nii.gz"

    def add(self, name: str, *, image: Any = None, label: Any = None, affine: np.ndarray = AFFINE) -> None:
        """Write a case, sound where nothing else is given."""
        self.names.append(name)
        voxels = hounsfield(len(self.names)) if image is None else image
        save(self.image(name), voxels, affine)
        save(self.label(name), organ_and_lesion(voxels.shape[:3]) if label is None else label, affine)

    def declare(self, **more: Any) -> None:
        """Write dataset.json."""
        content = {
            "name": "bad volumes",
            "modality": {"0": self.modality},
            "labels": {"0": "background", "1": "organ", "2": "lesion"},
            "training": [
                {"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in self.names
            ],
        }
        (self.root / "dataset.json").write_text(json.dumps(content | more))


def hounsfield(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Air, tissue and some bone."""
    random = np.random.default_rng(seed)
    voxels = random.normal(40, 30, shape)
    voxels[:3] = random.normal(-1000, 10, voxels[:3].shape)
    voxels[8, 8] = 900
    return voxels.round().astype(np.int16)


def organ_and_lesion(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    mask = np.zeros(shape, dtype=np.uint8)
    mask[4:10, 4:10, :] = 1
    mask[6:8, 6:8, :2] = 2
    return mask


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE, codes: tuple[int, int] = (1, 1)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti = nib.Nifti1Image(voxels, None)
    nifti.header.set_xyzt_units("mm")
    nifti.set_sform(affine, codes[0])
    if codes[1]:
        nifti.set_qform(affine, codes[1])
    nib.save(nifti, path)


def moved(*, shift_mm: float = 0.0, stretch: float = 1.0, turned: bool = False) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += shift_mm
    affine[2, 2] *= stretch
    return affine @ np.diag([-1.0, 1.0, 1.0, 1.0]) if turned else affine


def label_missing(data: Decathlon) -> Planted:
    data.add("label_missing")
    data.label("label_missing").unlink()
    return Planted("1 label missing for an image", "label_missing", "missing_file")


def image_missing(data: Decathlon) -> Planted:
    data.add("image_missing")
    data.image("image_missing").unlink()
    return Planted("1 image missing for a label", "image_missing", "missing_file")


def colliding_ids(data: Decathlon) -> Planted:
    data.add("Colliding", image=hounsfield(501))
    data.add("colliding", image=hounsfield(502))
    return Planted("2 colliding case ids", "colliding", "colliding_case_id")


def other_shape(data: Decathlon) -> Planted:
    data.add("other_shape", label=organ_and_lesion((16, 16, 11)))
    return Planted("4 shape mismatch of image and label", "other_shape", "shape_mismatch", words="shape")


def other_spacing(data: Decathlon) -> Planted:
    data.add("other_spacing")
    save(data.label("other_spacing"), organ_and_lesion(), moved(stretch=1.25))
    return Planted("5 spacing mismatch", "other_spacing", "spacing_mismatch", words="spacing")


def other_origin(data: Decathlon) -> Planted:
    data.add("other_origin")
    save(data.label("other_origin"), organ_and_lesion(), moved(shift_mm=4.0))
    return Planted("6 origin mismatch", "other_origin", "affine_mismatch", words="affine")


def other_direction(data: Decathlon) -> Planted:
    data.add("other_direction")
    save(data.label("other_direction"), organ_and_lesion(), moved(turned=True))
    return Planted("6 direction mismatch", "other_direction", "affine_mismatch", words="affine")


def forms_disagree(data: Decathlon) -> Planted:
    data.add("forms_disagree")
    nifti = nib.Nifti1Image(hounsfield(503), None)
    nifti.set_sform(AFFINE, 1)
    nifti.set_qform(moved(shift_mm=5.0), 1)
    nib.save(nifti, data.image("forms_disagree"))
    return Planted("7 sform and qform disagree", "forms_disagree", "unsure_grid")


def both_codes_zero(data: Decathlon) -> Planted:
    data.add("both_codes_zero")
    save(data.image("both_codes_zero"), hounsfield(504), AFFINE, codes=(0, 0))
    return Planted("7 both codes 0", "both_codes_zero", "unsure_grid")


def singular_affine(data: Decathlon) -> Planted:
    data.add("singular_affine")
    flat = AFFINE.copy()
    flat[:, 2] = flat[:, 1]
    save(data.image("singular_affine"), hounsfield(505), flat, codes=(1, 0))
    return Planted("8 singular affine", "singular_affine", "singular_affine")


def zero_spacing(data: Decathlon) -> Planted:
    data.add("zero_spacing")
    save(data.image("zero_spacing"), hounsfield(506), AFFINE @ np.diag([1.0, 1.0, 0.0, 1.0]), codes=(1, 0))
    return Planted("8 zero spacing", "zero_spacing", "singular_affine")


def metres(data: Decathlon) -> Planted:
    data.add("metres", affine=AFFINE @ np.diag([1e-3, 1e-3, 1e-3, 1.0]))
    return Planted("9 spacing in metres", "metres", "implausible_spacing")


def lost_spacing(data: Decathlon) -> Planted:
    data.add("lost_spacing", image=hounsfield(507, (512, 512, 1)), affine=np.eye(4))
    return Planted("9 spacing of 1.0 with a CT's matrix", "lost_spacing", "implausible_spacing")


def long_voxels(data: Decathlon) -> Planted:
    data.add("long_voxels", affine=np.diag([0.5, 0.5, 9.0, 1.0]))
    return Planted("10 extreme anisotropy for patch and strides", "long_voxels", "extreme_anisotropy", error=False)


def nan_voxels(data: Decathlon) -> Planted:
    voxels = hounsfield(508).astype(np.float32)
    voxels[1, 2, 3] = np.nan
    data.add("nan_voxels", image=voxels)
    return Planted("11 NaN voxels", "nan_voxels", "not_finite")


def infinite_voxels(data: Decathlon) -> Planted:
    voxels = hounsfield(509).astype(np.float32)
    voxels[1, 2, 3] = -np.inf
    data.add("infinite_voxels", image=voxels)
    return Planted("11 Inf voxels", "infinite_voxels", "not_finite")


def constant_image(data: Decathlon) -> Planted:
    data.add("constant_image", image=np.full(SHAPE, -1024, dtype=np.int16))
    return Planted("12 constant image", "constant_image", "constant_image")


def fractional_labels(data: Decathlon) -> Planted:
    data.add("fractional_labels", label=organ_and_lesion().astype(np.float32) * 0.75)
    return Planted("13 non-integer label values", "fractional_labels", "non_integer_label")


def undeclared_label(data: Decathlon) -> Planted:
    data.add("undeclared_label", label=organ_and_lesion() * 3)
    return Planted("14 undeclared label id", "undeclared_label", "undeclared_label")


def empty_label(data: Decathlon) -> Planted:
    data.add("empty_label", label=np.zeros(SHAPE, dtype=np.uint8))
    return Planted("15 empty label", "empty_label", "empty_label", error=False)


def two_channels(data: Decathlon) -> Planted:
    data.add("two_channels")
    save(data.image("two_channels"), np.stack([hounsfield(510), hounsfield(511)], axis=-1))
    checks = ("wrong_channels", "unreadable")
    return Planted("17 wrong channel count, 18 4D where 3D is declared", "two_channels", checks, words="channels")


def colour(data: Decathlon) -> Planted:
    data.add("colour")
    voxels = np.zeros(SHAPE, dtype=np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    save(data.image("colour"), voxels)
    return Planted("18 RGB where grey is declared", "colour", "wrong_channels")


def flat_image(data: Decathlon) -> Planted:
    data.add("flat_image")
    save(data.image("flat_image"), hounsfield(512)[..., 0])
    return Planted("18 2D where 3D is declared", "flat_image", "wrong_dimensions")


def small_image(data: Decathlon) -> Planted:
    data.add("small_image", image=hounsfield(513, (16, 10, 12)))
    return Planted("19 image smaller than the patch", "small_image", "smaller_than_patch", error=False)


def truncated(data: Decathlon) -> Planted:
    data.add("truncated")
    path = data.image("truncated")
    path.write_bytes(path.read_bytes()[:-200])
    return Planted("21 truncated .nii.gz", "truncated", "unreadable")


def truncated_inside(data: Decathlon) -> Planted:
    """The archive is whole, and the volume in it is not."""
    data.add("truncated_inside")
    path = data.image("truncated_inside")
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-200]))
    return Planted("21 truncated volume in a whole .gz", "truncated_inside", "unreadable")


def web_page(data: Decathlon) -> Planted:
    data.add("web_page")
    data.image("web_page").write_bytes(b"<!DOCTYPE html><html><body>404</body></html>" * 20)
    return Planted("21 an HTML page saved as .nii.gz", "web_page", "unreadable")


def empty_file(data: Decathlon) -> Planted:
    data.add("empty_file")
    data.label("empty_file").write_bytes(b"")
    return Planted("a 0-byte file", "empty_file", "unreadable")


def link_to_itself(data: Decathlon) -> Planted:
    data.add("link_to_itself")
    path = data.image("link_to_itself")
    path.unlink()
    path.symlink_to(path)
    return Planted("symlink loop", "link_to_itself", "missing_file")


def raw_values(data: Decathlon) -> Planted:
    data.add("raw_values", image=(hounsfield(514).clip(-1024) + 1024) * np.int16(2))
    return Planted("24 rescale slope and intercept not applied", "raw_values", "hounsfield_range")


def no_hounsfield(data: Decathlon) -> Planted:
    data.add("no_hounsfield", image=hounsfield(515).astype(np.float32) * 100)
    return Planted("24 CT outside the HU range", "no_hounsfield", "hounsfield_range")


def signed_grey_levels(data: Decathlon) -> Planted:
    levels = np.linspace(0, 65535, int(np.prod(SHAPE))).reshape(SHAPE).astype(np.uint16)
    data.add("signed_grey_levels", image=levels.view(np.int16))
    return Planted("65,536 grey levels saved as signed", "signed_grey_levels", "wrapped_intensities")


def black_and_white(data: Decathlon) -> Planted:
    data.add("black_and_white", label=(organ_and_lesion() > 0).astype(np.uint8) * 255)
    return Planted("a mask saved as 0/255", "black_and_white", "undeclared_label")


def copy_of_a_case(data: Decathlon) -> Planted:
    data.add("copy_of_a_case")
    data.image("copy_of_a_case").write_bytes(data.image("sound_03").read_bytes())
    return Planted(
        "an image that another part has too", "copy_of_a_case", ("leaked_image", "equal_images"), error=False
    )


OF_A_VOLUME: tuple[Callable[[Decathlon], Planted], ...] = (
    label_missing,
    image_missing,
    colliding_ids,
    other_shape,
    other_spacing,
    other_origin,
    other_direction,
    forms_disagree,
    both_codes_zero,
    singular_affine,
    zero_spacing,
    metres,
    lost_spacing,
    long_voxels,
    nan_voxels,
    infinite_voxels,
    constant_image,
    fractional_labels,
    undeclared_label,
    empty_label,
    two_channels,
    colour,
    flat_image,
    small_image,
    truncated,
    truncated_inside,
    web_page,
    empty_file,
    link_to_itself,
    raw_values,
    no_hounsfield,
    signed_grey_levels,
    black_and_white,
    copy_of_a_case,
)


def decathlon(root: Path, plants: Iterable[Callable[[Decathlon], Planted]] = OF_A_VOLUME) -> list[Planted]:
    """A CT dataset with sound cases and one for each plant."""
    data = Decathlon(root)
    for number in range(SOUND):
        data.add(f"sound_{number:02d}")
    planted = [plant(data) for plant in plants]
    data.declare()
    return planted


def decathlon_with_a_case_twice(root: Path) -> list[Planted]:
    data = Decathlon(root)
    for number in range(SOUND):
        data.add(f"sound_{number:02d}")
    data.names.append("sound_04")
    data.declare()
    return [Planted("2 duplicate case id", None, ("duplicate_case_id", "unlistable"), words="sound_04")]


def decathlon_that_leaves_its_folder(root: Path) -> list[Planted]:
    data = Decathlon(root)
    for number in range(SOUND):
        data.add(f"sound_{number:02d}")
    pair = {"image": "../elsewhere/a.nii.gz", "label": "labelsTr/sound_00.nii.gz"}
    data.declare(training=[pair])
    return [Planted("path traversal", None, ("path_traversal", "unlistable"), words="elsewhere")]


def decathlon_with_a_rare_class(root: Path) -> list[Planted]:
    """One case has the lesion, so that no more than one part can show it."""
    data = Decathlon(root)
    for number in range(SOUND):
        label = organ_and_lesion() if number == 0 else (organ_and_lesion() > 0).astype(np.uint8)
        data.add(f"sound_{number:02d}", label=label)
    data.declare()
    return [Planted("16 a class absent from a split", None, "class_absent", words="lesion", error=False)]

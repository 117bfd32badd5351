"""Volumes in nnU-Net's layout, whose channels or grids are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from bad_volumes import AFFINE, SHAPE, SOUND, hounsfield, moved, organ_and_lesion, save
from planted import Planted


def two_modalities(root: Path) -> list[Planted]:
    """CT and PET in nnU-Net's layout, one case with the files exchanged."""
    for number in range(SOUND):
        random = np.random.default_rng(number)
        pair = [hounsfield(number).astype(np.float32), random.gamma(2.0, 1.5, SHAPE).astype(np.float32)]
        for channel, voxels in enumerate(pair[::-1] if number == 6 else pair):
            save(root / "imagesTr" / f"case_{number}_{channel:04d}.nii.gz", voxels)
        save(root / "labelsTr" / f"case_{number}.nii.gz", organ_and_lesion())
    _declare(root, ["CT", "PET"], SOUND)
    return [Planted("17 wrong channel order", "case_6", "channel_order", error=False)]


def other_grids(root: Path) -> list[Planted]:
    """Labels in nnU-Net's layout that do not lie on the grid of their image."""
    spoilt: dict[str, tuple[np.ndarray, np.ndarray]] = {
        "other_shape": (organ_and_lesion((16, 16, 11)), AFFINE),
        "other_spacing": (organ_and_lesion(), moved(stretch=1.25)),
        "other_origin": (organ_and_lesion(), moved(shift_mm=4.0)),
        "other_direction": (organ_and_lesion(), moved(turned=True)),
    }
    sound = {f"sound_{number}": (organ_and_lesion(), AFFINE) for number in range(SOUND)}
    for number, (name, (label, affine)) in enumerate({**sound, **spoilt}.items()):
        save(root / "imagesTr" / f"{name}_0000.nii.gz", hounsfield(number))
        save(root / "labelsTr" / f"{name}.nii.gz", label, affine)
    _declare(root, ["CT"], SOUND + len(spoilt))
    return [
        Planted("4 shape mismatch of image and label", "other_shape", "shape_mismatch"),
        Planted("5 spacing mismatch", "other_spacing", "spacing_mismatch"),
        Planted("6 origin mismatch", "other_origin", "affine_mismatch"),
        Planted("6 direction mismatch", "other_direction", "affine_mismatch"),
    ]


def _declare(root: Path, channels: list[str], n_cases: int) -> None:
    content = {
        "channel_names": {str(number): name for number, name in enumerate(channels)},
        "labels": {"background": 0, "organ": 1, "lesion": 2},
        "numTraining": n_cases,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(content))

"""Tables that list images, each spoilt in one way of the list of bad inputs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from bad_pictures import SOUND, picture, square, write
from bad_volumes import AFFINE, SHAPE, hounsfield, save
from planted import Planted

COLUMN_NAMES = ("image", "mask", "patient", "split", "finding")


def _rows(root: Path, names: Sequence[str]) -> list[dict[str, str]]:
    rows = []
    for number, name in enumerate(names):
        write(root / "images" / f"{name}.png", picture(number))
        write(root / "masks" / f"{name}.png", square())
        part = "test" if number < 3 else "val" if number < 5 else "train"
        rows.append(
            {
                "image": f"images/{name}.png",
                "mask": f"masks/{name}.png",
                "patient": f"patient {number}",
                "split": part,
                "finding": "none",
            }
        )
    return rows


def _csv(rows: Sequence[Mapping[str, str]], delimiter: str = ",") -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMN_NAMES, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def table(root: Path) -> list[Planted]:
    """A table whose rows are wrong in many ways; sound names have spaces, dots and letters of other alphabets."""
    names = [f"sound {number} größe.1" for number in range(SOUND)]
    rows = _rows(root, names)
    spoilt: dict[str, dict[str, str]] = {
        "traversal": {"image": "../../etc/passwd.png"},
        "moved": {"image": "/mnt/old disk/study/images/moved.png"},
        "gone": {"mask": "masks/no such file.png"},
        "no_mask": {"mask": ""},
        "same_patient": {"patient": "patient 0"},
        "odd_split": {"split": "tarin"},
        "odd_label": {"finding": "fibrosi"},
        "no_image": {"image": ""},
    }
    for number, (name, cells) in enumerate(spoilt.items()):
        (row,) = _rows(root, [name])
        write(root / "images" / f"{name}.png", picture(100 + number))
        rows.append({**row, "split": "train", "patient": f"patient of {name}"} | cells)
    again = dict(rows[4])
    copy = dict(rows[7]) | {"mask": "masks/copy.png", "image": "images/copy.png", "patient": "copy", "split": "test"}
    write(root / "images" / "copy.png", picture(7))
    write(root / "masks" / "copy.png", square())
    (root / "table.csv").write_text(_csv([*rows, again, copy]), encoding="utf-8")
    line_of = {name: f"line_{len(rows) - len(spoilt) + place + 2}" for place, name in enumerate(spoilt)}
    return [
        Planted("path traversal in a manifest", line_of["traversal"], "path_traversal", words="passwd"),
        Planted("absolute paths that moved", line_of["moved"], "path_traversal", words="moved_from"),
        Planted("1 label missing for an image", "images__gone", "missing_label"),
        Planted("1 label missing for an image", "images__no_mask", "missing_label"),
        Planted("3 the same patient in two splits", "images__same_patient", "group_in_two_parts", words="patient 0"),
        Planted("31 misspelt split", "images__odd_split", "unknown_part", words="train"),
        Planted("14 undeclared label", "images__odd_label", "unknown_label", words="fibrosis"),
        Planted("1 image missing for a label", line_of["no_image"], "missing_image"),
        Planted("2 duplicate case ids", "images__sound 4 größe.1", "duplicate_case_id"),
        Planted("an image that is there twice", "images__copy", ("leaked_image", "equal_images"), error=False),
    ]


def table_with_another_delimiter(root: Path) -> list[Planted]:
    rows = _rows(root, [f"sound_{number}" for number in range(SOUND)])
    (root / "table.csv").write_text(_csv(rows, delimiter=";"), encoding="utf-8")
    return [Planted("CSV with a wrong delimiter", None, "unlistable", words="delimiter")]


def table_in_another_encoding(root: Path) -> list[Planted]:
    rows = _rows(root, [f"größe_{number}" for number in range(SOUND)])
    (root / "table.csv").write_text(_csv(rows), encoding="cp1252")
    return [Planted("CSV in a wrong encoding", None, "unlistable", words="encoding")]


def table_with_links(root: Path) -> list[Planted]:
    """A link to itself, and one that leads out of the folder and back."""
    rows = _rows(root, [f"sound_{number}" for number in range(SOUND)])
    (root / "images" / "around").symlink_to(root / "images")
    rows[3]["image"] = "images/around/around/sound_3.png"
    loop = root / "images" / "sound_5.png"
    loop.unlink()
    loop.symlink_to(loop)
    (root / "table.csv").write_text(_csv(rows), encoding="utf-8")
    return [Planted("symlink loop", "images__sound_5", ("missing_file", "missing_image"))]


def boxes_in_volumes(root: Path) -> list[Planted]:
    """Boxes in a table of JSON lines, with volumes whose voxels are not of one millimetre."""
    sound = [3.0, 4.0, 2.0, 9.0, 11.0, 8.0]
    spacing = np.abs(np.diag(AFFINE)[:3])
    stretched = (np.array(sound).reshape(2, 3) * spacing * [1, 1, 4]).ravel().tolist()
    boxes = {
        **{f"sound_{number}": sound for number in range(SOUND)},
        "millimetres": (np.array([3.0, 4, 5, 9, 11, 11]).reshape(2, 3) * spacing).ravel().tolist(),
        "reversed": [9.0, 4, 2, 3, 11, 8],
        "beyond": stretched,
    }
    lines = []
    for number, (name, box) in enumerate(boxes.items()):
        save(root / "images" / f"{name}.nii.gz", hounsfield(number, SHAPE))
        lines.append(json.dumps({"image": f"images/{name}.nii.gz", "boxes": [box]}))
    (root / "table.jsonl").write_text("\n".join(lines))
    return [
        Planted("26 mm read as voxels", "images__millimetres", "boxes_in_mm"),
        Planted("26 boxes with x2 <= x1", "images__reversed", "box_order"),
        Planted("26 boxes outside the image", "images__beyond", ("box_outside", "boxes_in_mm")),
    ]

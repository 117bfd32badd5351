"""Pictures with boxes, masks, instances and dots, each spoilt in one way of the list of bad inputs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from planted import Planted

ROWS, COLUMNS = 48, 64
SOUND = 10
# Names that a reader has to cope with.
NAMES = ("größe 1", "Ünïcode", "two  spaces", "dots.in.name", "日本")


def picture(seed: int, shape: tuple[int, ...] = (ROWS, COLUMNS)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def write(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def sound_names() -> list[str]:
    return [*(f"sound_{number:02d}" for number in range(SOUND)), *NAMES]


def voc_xml(boxes: Sequence[tuple[str, float, float, float, float]], *, size: tuple[int, int] = (ROWS, COLUMNS)) -> str:
    """An annotation; boxes are class, xmin, ymin, xmax, ymax."""
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>"
        for name, x1, y1, x2, y2 in boxes
    )
    return f"<annotation><size><height>{size[0]}</height><width>{size[1]}</width></size>{objects}</annotation>"


VOC_BOX = ("cell", 5, 6, 20, 30)
VOC_BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "lol"><!ENTITY y "&x;&x;">]><annotation><size>&y;</size></annotation>'
)
# Of each case: what it is, the check that finds it, and its annotation.
_VOC = {
    "reversed_box": ("26 boxes with x2 <= x1", "box_order", voc_xml([VOC_BOX, ("cell", 20, 30, 10, 40)])),
    "flat_box": ("26 boxes with x2 <= x1", "box_without_extent", voc_xml([VOC_BOX, ("cell", 20, 10, 20, 40)])),
    "outside": ("26 boxes outside the image", "box_outside", voc_xml([VOC_BOX, ("cell", 40, 10, 90, 40)])),
    "xywh": ("26 xywh read as xyxy", "box_order", voc_xml([("cell", 40, 30, 15, 12), ("cell", 30, 20, 30, 10)])),
    "xyxy": ("26 xyxy read as xywh", "box_outside", voc_xml([("cell", 40, 30, 95, 75), ("cell", 10, 20, 60, 50)])),
    "no_number": ("26 a box that is no box", "malformed_object", voc_xml([("cell", "left", 1, 2, 3)])),
    "other_class": ("14 undeclared class", "unknown_label", voc_xml([("cel", 5, 6, 20, 30)])),
    "other_size": ("4 shape mismatch", "shape_mismatch", voc_xml([VOC_BOX], size=(COLUMNS, ROWS))),
    "entities": ("XML with entities", "unreadable", VOC_BOMB),
    "cut_xml": ("truncated annotation", "unreadable", voc_xml([VOC_BOX])[:-30]),
    "empty_xml": ("a 0-byte file", "unreadable", ""),
}


def voc(root: Path) -> list[Planted]:
    names = sound_names()
    for number, name in enumerate([*names, *_VOC, "no_annotation", "colour", "p7_a", "p7_b", "in_two_lists"]):
        values = picture(number, (ROWS, COLUMNS, 3) if name == "colour" else (ROWS, COLUMNS))
        write(root / "JPEGImages" / f"{name}.{'PNG' if number % 2 else 'png'}", values)
        text = _VOC[name][2] if name in _VOC else voc_xml([VOC_BOX])
        _write_text(root / "Annotations" / f"{name}.xml", text)
    (root / "Annotations" / "no_annotation.xml").unlink()
    _write_text(root / "Annotations" / "no_image.xml", voc_xml([VOC_BOX]))
    train = [*names, *_VOC, "no_annotation", "no_image", "colour", "p7_a", "in_two_lists"]
    _write_text(root / "ImageSets" / "Main" / "train.txt", "\n".join(train))
    _write_text(root / "ImageSets" / "Main" / "test.txt", "p7_b\nin_two_lists\n")
    return [
        *(Planted(what, name, check) for name, (what, check, _) in _VOC.items()),
        Planted("26 the same, recognised", "xywh", "box_order", words="width"),
        Planted("26 the same, recognised", "xyxy", "box_outside", words="width"),
        Planted("1 label missing for an image", "no_annotation", "missing_label"),
        Planted("1 image missing for a label", "no_image", "missing_image"),
        Planted("18 RGB where grey is declared", "colour", "wrong_channels"),
        Planted("3 the same patient in two splits", "p7_a", "group_in_two_parts", words="p7"),
        Planted("3 the same image in two splits", "in_two_lists", "split_lists"),
    ]


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def square(label: int = 1) -> np.ndarray:
    mask = np.zeros((ROWS, COLUMNS), dtype=np.uint8)
    mask[10:30, 20:40] = label
    return mask


def folder(root: Path) -> list[Planted]:
    """Images and masks by name, in many formats."""
    names = sound_names()
    planted = [
        ("lossy", "28 lossy JPEG as a mask", "lossy_mask"),
        ("black_and_white", "a mask saved as 0/255", "undeclared_label"),
        ("fractional", "13 non-integer label values", "non_integer_label"),
        ("other_shape", "4 shape mismatch", "shape_mismatch"),
        ("colour", "18 RGB where grey is declared", "wrong_channels"),
        ("colour_mask", "17 wrong channel count of a mask", "wrong_channels"),
        ("palette_image", "palette picture as an image", "wrong_channels"),
        ("no_mask", "1 label missing for an image", "missing_label"),
        ("no_image", "1 image missing for a label", "missing_image"),
        ("twice", "2 duplicate case ids", "duplicate_case_id"),
        ("empty", "a 0-byte file", "unreadable"),
        ("page", "21 an HTML page under the name of a picture", "unreadable"),
        ("cut", "21 truncated file", "unreadable"),
        ("renamed", "28 a JPEG under the name of a PNG", "unreadable"),
        ("loop", "symlink loop", ("missing_file", "missing_image")),
        ("constant", "12 constant image", "constant_image"),
        ("signed", "65,536 grey levels saved as signed", "wrapped_intensities"),
    ]
    for number, name in enumerate([*names, *(name for name, _, _ in planted), "nothing"]):
        write(root / "images" / f"{name}.{'PNG' if number % 2 else 'png'}", picture(number))
        write(root / "masks" / f"{name}.png", square())
    _spoil_images(root / "images")
    _spoil_masks(root / "masks")
    return [
        *(Planted(what, name, check) for name, what, check in planted),
        Planted("15 empty label", "nothing", "empty_label", error=False),
    ]


def _spoil_images(images: Path) -> None:
    for name in (
        "palette_image",
        "loop",
        "signed",
        "no_image",
        "cut",
        "page",
        "empty",
        "renamed",
        "colour",
        "constant",
    ):
        for ending in ("PNG", "png"):
            (images / f"{name}.{ending}").unlink(missing_ok=True)
    write(images / "colour.png", picture(501, (ROWS, COLUMNS, 3)))
    write(images / "constant.png", np.full((ROWS, COLUMNS), 7, np.uint8))
    levels = np.linspace(0, 65535, ROWS * COLUMNS).reshape(ROWS, COLUMNS).astype(np.uint16)
    tifffile.imwrite(images / "signed.tif", levels.view(np.int16))
    indexed = Image.fromarray(picture(502) % 4).convert("P")
    indexed.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    indexed.save(images / "palette_image.png")
    write(images / "twice.bmp", picture(503))
    (images / "empty.png").write_bytes(b"")
    (images / "page.png").write_bytes(b"<html><body>404 Not Found</body></html>")
    whole = write(images / "cut.png", picture(504))
    whole.write_bytes(whole.read_bytes()[:-900])
    write(images / "renamed.jpg", picture(505)).rename(images / "renamed.png")
    (images / "loop.png").symlink_to(images / "loop.png")


def _spoil_masks(masks: Path) -> None:
    for name in ("lossy", "no_mask", "fractional"):
        (masks / f"{name}.png").unlink()
    write(masks / "lossy.jpg", square())
    write(masks / "black_and_white.png", square(255))
    write(masks / "nothing.png", square(0))
    write(masks / "other_shape.png", square()[:-1])
    write(masks / "colour_mask.png", picture(500, (ROWS, COLUMNS, 3)))
    write(masks / "fractional.tif", square().astype(np.float32) * 0.5)
    palette = Image.fromarray(square())
    palette.putpalette([0, 0, 0, 200, 30, 30])
    palette.save(masks / "sound_03.png")  # ids are the places in the table of colours, and nothing is wrong


def object_masks(root: Path) -> list[Planted]:
    """A folder for each image, with a mask for each object."""
    for number, name in enumerate([*sound_names(), "two_parts", "no_masks", "no_picture", "several_values"]):
        write(root / name / "images" / f"{name}.png", picture(number))
        for place in range(3):
            mask = np.zeros((ROWS, COLUMNS), dtype=np.uint8)
            mask[4 : 12 + number % 5, 20 * place : 20 * place + 9] = 255
            write(root / name / "masks" / f"{place}.png", mask)
    torn = np.zeros((ROWS, COLUMNS), dtype=np.uint8)
    torn[30:34, 5:9] = torn[40:44, 50:55] = 255
    write(root / "two_parts" / "masks" / "3.png", torn)
    write(root / "several_values" / "masks" / "0.png", picture(7))
    (root / "no_picture" / "images" / "no_picture.png").unlink()
    for path in (root / "no_masks" / "masks").iterdir():
        path.unlink()
    (root / "no_masks" / "masks").rmdir()
    return [
        Planted("27 one id on two disconnected parts", "two_parts", "disconnected_instance", error=False),
        Planted("1 label missing for an image", "no_masks", "missing_label"),
        Planted("1 image missing for a label", "no_picture", "missing_image"),
        Planted("27 several objects in one mask", "several_values", "several_objects"),
    ]


def instance_maps(root: Path) -> list[Planted]:
    """Maps of instances in pictures of 8 bits."""
    for number in range(SOUND):
        write(root / "images" / f"sound_{number:02d}.png", picture(number, (128, 128)))
        write(root / "instances" / f"sound_{number:02d}.png", _tiles(20))
    write(root / "images" / "beyond.png", picture(900, (128, 128)))
    write(root / "instances" / "beyond.png", _tiles(400))
    return [Planted("27 instance ids beyond the dtype", "beyond", ("instance_ids", "disconnected_instance"))]


def _tiles(count: int) -> np.ndarray:
    """Instances 1, 2, ... as a program writes them that has 8 bits for each, beginning again behind the last."""
    ids = np.zeros((128, 128), dtype=np.uint8)
    for number in range(count):
        row, column = divmod(number, 25)
        ids[5 * row + 1 : 5 * row + 4, 5 * column + 1 : 5 * column + 4] = number % 255 + 1
    return ids


def coco(root: Path) -> list[Planted]:
    """Boxes in one JSON file for all images."""
    names = [*sound_names(), "reversed", "outside", "gone", "annotated_twice"]
    images = [
        {"id": number, "file_name": f"{name}.png", "height": ROWS, "width": COLUMNS}
        for number, name in enumerate(names)
    ]
    for number, name in enumerate(names):
        write(root / "images" / f"{name}.png", picture(number))
    (root / "images" / "gone.png").unlink()
    images.append({"id": 900, "file_name": "../../etc/passwd.png", "height": ROWS, "width": COLUMNS})
    images.append({"id": names.index("annotated_twice"), "file_name": "again.png", "height": ROWS, "width": COLUMNS})
    write(root / "images" / "again.png", picture(901))
    boxes = {"reversed": [20, 20, -8, 5], "outside": [60, 10, 20, 20]}
    annotations = [
        {"id": number, "image_id": number, "category_id": 3, "bbox": boxes.get(name, [5, 6, 20, 10]), "iscrowd": 0}
        for number, name in enumerate(names)
    ]
    annotations.append({"id": 901, "image_id": 555, "category_id": 3, "bbox": [1, 1, 2, 2], "iscrowd": 0})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "cell"}]}
    (root / "annotations.json").write_text(json.dumps(content))
    return [
        Planted("26 boxes with x2 <= x1", "reversed", ("box_order", "malformed_box", "malformed_object")),
        Planted("26 boxes outside the image", "outside", "box_outside"),
        Planted("1 image missing for a label", "gone", "missing_image"),
        Planted("path traversal", "image_900", "path_traversal"),
        Planted("1 image missing for a label", "image_555", "missing_image"),
        Planted("2 duplicate ids of images", "again", "duplicate_id"),
        Planted("2 duplicate ids of images", "annotated_twice", "duplicate_id"),
    ]


def dots(root: Path) -> list[Planted]:
    """Places in a table."""
    names = [*sound_names(), "beyond", "unlisted", "no_number"]
    rows = ["image;y;x"]
    for number, name in enumerate(names):
        write(root / "images" / f"{name}.png", picture(number))
        if name != "unlisted":
            rows += [f"{name};{10 + number};{12 + number}", f"{name};5;7"]
    rows += ["beyond;20;900", "no_number;five;6", "gone;1;2"]
    _write_text(root / "centres.csv", "\n".join(rows))
    return [
        Planted("26 points outside the image", "beyond", "box_outside"),
        Planted("1 label missing for an image", "unlisted", "missing_label"),
        Planted("1 image missing for a label", "gone", "missing_image"),
        Planted("a row that cannot be read", "no_number", ("unreadable_row", "malformed_row")),
    ]


def dots_with_another_delimiter(root: Path) -> list[Planted]:
    dots(root)
    text = (root / "centres.csv").read_text(encoding="utf-8")
    (root / "centres.csv").write_text(text.replace(";", ","), encoding="utf-8")
    return [Planted("CSV with a wrong delimiter", None, ("unlistable", "missing_column"), words="delimiter")]


def dots_in_another_encoding(root: Path) -> list[Planted]:
    dots(root)
    text = (root / "centres.csv").read_text(encoding="utf-8").replace("日本", "größe 2")
    (root / "centres.csv").write_text(text, encoding="latin-1")
    return [Planted("CSV in a wrong encoding", None, ("unlistable", "unreadable"), words="centres.csv")]


def medmnist_with_objects(root: Path) -> list[Planted]:
    """Images of data type object, which only pickle could read."""
    root.mkdir(parents=True)
    images = np.empty(12, dtype=object)
    images[:] = [picture(number, (28, 28)) for number in range(12)]
    np.savez(root / "mine.npz", train_images=images, train_labels=np.zeros((12, 1), np.uint8))
    return [Planted("29 .npy of dtype object", None, ("unlistable", "unreadable"), words="object")]


def medmnist_with_a_leak(root: Path) -> list[Planted]:
    root.mkdir(parents=True)
    images = {part: picture(number, (12, 28, 28)) for number, part in enumerate(("train", "val", "test"))}
    images["train"][5] = images["test"][7]
    labels = {f"{part}_labels": np.arange(12).reshape(12, 1).astype(np.uint8) % 2 for part in images}
    np.savez(root / "mine.npz", **{f"{part}_images": values for part, values in images.items()}, **labels)
    return [Planted("an image of the test part among the training images", "train_05", "leaked_image", error=False)]


def tracks(root: Path) -> list[Planted]:
    for sequence in ("01", "02"):
        for frame in range(6):
            for place in (f"{sequence}/t", f"{sequence}_GT/SEG/man_seg", f"{sequence}_GT/TRA/man_track"):
                path = root / f"{place}{frame:03d}.tif"
                path.parent.mkdir(parents=True, exist_ok=True)
                values = picture(frame + 10 * int(sequence)) if place.endswith("/t") else square().astype(np.uint16)
                tifffile.imwrite(path, values)
        _write_text(root / f"{sequence}_GT" / "TRA" / "man_track.txt", "1 0 5 0\n")
    (root / "01_GT" / "SEG" / "man_seg002.tif").unlink()
    (root / "02" / "t003.tif").unlink()
    cut = root / "02" / "t004.tif"
    cut.write_bytes(cut.read_bytes()[:-300])
    return [
        Planted("1 label missing for an image", "01_t002", "missing_label"),
        Planted("1 image missing for a label", "02_t003", "missing_image"),
        Planted("21 truncated file", "02_t004", "unreadable"),
    ]

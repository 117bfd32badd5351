"""Annotation files in the XML of Pascal VOC, read without expanding entities.

Source: the development kit of the challenge (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/htmldoc/devkit_doc.html).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from medexp.core.errors import DataError
from medexp.core.faults import Fault

_ENDS = ("ymin", "xmin", "ymax", "xmax")


@dataclass(frozen=True)
class Box:
    """An object of an image.

    Attributes:
        name: Its class.
        ends: ymin, xmin, ymax, xmax as they are written.
        difficult: Marked as hard to recognise.
    """

    name: str
    ends: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class Annotated:
    """What a file says of an image.

    Attributes:
        shape: Rows and columns; None where it does not say.
        boxes: The objects.
    """

    shape: tuple[int, int] | None
    boxes: tuple[Box, ...]


def read_annotated(path: Path, *, case_id: str) -> Annotated:
    """Read one file.

    Args:
        path: The file.
        case_id: The case, for errors.

    Returns:
        What it says.

    Raises:
        DataError: The file is missing, no XML of this kind, or names every object that has no class or no box.
    """
    root = _parse(path, case_id)
    if root.tag != "annotation":
        raise _unreadable(path, case_id, f"<{root.tag}>")
    boxes, faults = [], []
    for number, element in enumerate(root.iterfind("object"), start=1):
        box = _box(element)
        if box is None:
            remedy = "write both, or remove the object"
            expected = "a <name> and a <bndbox> of four numbers in each <object>"
            faults.append(Fault("malformed_object", expected, f"none in number {number}", remedy, case_id, path))
        else:
            boxes.append(box)
    if faults:
        raise DataError.of(*faults)
    return Annotated(_shape(root), tuple(boxes))


def _parse(path: Path, case_id: str) -> Element:
    """The root of the document; entities, which could name other files or grow without bound, are refused."""
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = _refuse_entity
    try:
        parser.Parse(path.read_bytes(), True)
        return builder.close()
    except FileNotFoundError as error:
        fault = Fault("missing_file", "an annotation", "none", "restore it, or remove the case", case_id, path)
        raise DataError.of(fault) from error
    except (OSError, ValueError, LookupError, expat.ExpatError) as error:
        raise _unreadable(path, case_id, f"an error ({error})") from error


def _refuse_entity(*declaration: object) -> None:
    raise ValueError(f"it declares the entity {declaration[0]!r}")


def _unreadable(path: Path, case_id: str, found: str) -> DataError:
    expected = "an <annotation> in the XML of Pascal VOC"
    remedy = "it may be truncated or something else under this name: copy or export it again"
    return DataError.of(Fault("unreadable", expected, found, remedy, case_id, path))


def _box(element: Element) -> Box | None:
    name, ends = (element.findtext("name") or "").strip(), [_number(element.findtext(f"bndbox/{end}")) for end in _ENDS]
    top, left, bottom, right = ends
    if not name or top is None or left is None or bottom is None or right is None:
        return None
    difficult = (element.findtext("difficult") or "0").strip() not in ("0", "")
    return Box(name, (top, left, bottom, right), difficult)


def _shape(root: Element) -> tuple[int, int] | None:
    """Some tools write zeros where they do not know the size."""
    rows, columns = (_number(root.findtext(f"size/{side}")) for side in ("height", "width"))
    return (int(rows), int(columns)) if rows and columns else None


def _number(text: str | None) -> float | None:
    try:
        number = math.nan if text is None else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None

"""Annotation files of COCO (https://cocodataset.org/#format-data). Nothing in such a file is trusted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medexp.core.errors import DataError
from medexp.core.faults import Fault
from medexp.data.sources._coco_masks import is_number

_NAMED = 3
# What can be wrong with an image: what is needed, and the remedy.
_PROBLEMS = {
    "duplicate_id": ("ids that nothing else has", "number images and annotations again"),
    "missing_image": ("images that the file lists", "list the image, or remove its annotations"),
    "unknown_label": ("categories that the file lists", "list the category, or correct the annotation"),
    "malformed_object": (
        "a bbox of four numbers or a segmentation, and a size above 0, in each entry",
        "correct or remove what has none",
    ),
}


@dataclass(frozen=True)
class Listed:
    """An image and what is annotated in it.

    Attributes:
        file_name: The image file as it is written; None for one that annotations name and the file does not list.
        identity: The image's id as a text.
        shape: Rows and columns; None where they are not written.
        objects: Class name, box (x, y, width, height; or None) and segmentation (or None) of each object.
        problems: Examples of what is wrong, by check.
    """

    file_name: Any
    identity: str
    shape: tuple[int, int] | None = None
    objects: list[dict[str, Any]] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)

    def faults(self, case_id: str, file: Path) -> tuple[Fault, ...]:
        """What is wrong, with the case and the annotation file."""
        found = []
        for check, examples in self.problems.items():
            expected, remedy = _PROBLEMS[check]
            text = ", ".join(examples[:_NAMED]) + (f" and {len(examples) - _NAMED} more" if examples[_NAMED:] else "")
            found.append(Fault(check, expected, text, remedy, case_id, file))
        return tuple(found)

    def tell(self, check: str, example: str) -> None:
        """Add something that is wrong."""
        self.problems.setdefault(check, []).append(example)


@dataclass(frozen=True)
class CocoFile:
    """One annotation file.

    Attributes:
        path: The file.
        categories: Class names in the order of their ids.
        images: The images in the order of the file, then those that only annotations name.
    """

    path: Path
    categories: tuple[str, ...]
    images: tuple[Listed, ...]

    @classmethod
    def read(cls, path: Path) -> CocoFile:
        """Read a file; crowds, which are regions with an unknown number of objects, are left out.

        Args:
            path: The file.

        Returns:
            Its content.

        Raises:
            DataError: The file is missing, no JSON, or its lists of images, annotations or categories are unfit.
        """
        content = _load(path)
        categories = _categories(_list(content, "categories", path), path)
        images = [_image(item) for item in _list(content, "images", path)]
        occurrences = Counter(image.identity for image in images)
        for image in images:
            if occurrences[image.identity] > 1:
                image.tell("duplicate_id", f"{occurrences[image.identity]} images with the id {image.identity}")
        by_id = {image.identity: image for image in images}
        seen: set[str] = set()
        for item in _list(content, "annotations", path):
            identity = repr(item.get("image_id"))
            if identity not in by_id:
                by_id[identity] = Listed(None, identity)
                by_id[identity].tell("missing_image", f"annotations of the image {identity}")
                images.append(by_id[identity])
            _add(item, by_id[identity], categories, seen)
        return cls(path, tuple(categories.values()), tuple(images))


def _load(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        remedy = "set dataset.root and dataset.source.annotation_files to where it lies"
        raise DataError.of(Fault("missing_file", "an annotation file", "none", remedy, file=path)) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _unfit(path, "JSON", f"an error ({error})") from error
    if not isinstance(content, dict):
        raise _unfit(path, "a JSON object", type(content).__name__)
    return content


def _unfit(path: Path, expected: str, found: str) -> DataError:
    remedy = "it may be truncated or in another format: copy or export it again"
    return DataError.of(Fault("unreadable", expected, found, remedy, file=path))


def _list(content: Mapping[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    items = content.get(key)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise _unfit(path, f"a list of objects under {key!r}", "none" if items is None else "something else")
    return items


def _categories(items: list[dict[str, Any]], path: Path) -> dict[str, str]:
    """Name of each category by the text of its id, in the order of the ids."""
    numbers = [item.get("id") for item in items]
    names = [item.get("name") for item in items]
    if not items or not all(type(number) is int for number in numbers) or not all(isinstance(n, str) for n in names):
        raise _unfit(path, "categories with a whole number as id and a name", "none" if not items else "others")
    if len(set(numbers)) < len(items) or len(set(names)) < len(items):
        raise _unfit(path, "categories with ids and names of their own", "some that occur twice")
    return {repr(number): str(name) for number, name in sorted(zip(numbers, names, strict=True))}


def _image(item: Mapping[str, Any]) -> Listed:
    sides: list[Any] = [item.get("height"), item.get("width")]
    fit = all(type(side) is int and side > 0 for side in sides)
    image = Listed(item.get("file_name"), repr(item.get("id")), (sides[0], sides[1]) if fit else None)
    if not fit and sides != [None, None]:
        image.tell("malformed_object", f"the height and width {sides}")
    return image


def _add(item: Mapping[str, Any], image: Listed, categories: Mapping[str, str], seen: set[str]) -> None:
    """Put an annotation to its image, or tell what is wrong with it."""
    identity = repr(item.get("id"))
    if "id" in item and identity in seen:
        image.tell("duplicate_id", f"a further annotation with the id {identity}")
    seen.add(identity)
    if item.get("iscrowd"):
        return
    name, box = categories.get(repr(item.get("category_id"))), item.get("bbox")
    if name is None:
        image.tell("unknown_label", f"annotation {identity} of category {item.get('category_id')!r}")
    segmentation = item.get("segmentation") or None
    fit = isinstance(box, list) and len(box) == 4 and all(map(is_number, box))
    if (box and not fit) or not (box or segmentation):
        image.tell("malformed_object", f"annotation {identity} with the bbox {box!r}")
    image.objects.append({"class": name, "box": box or None, "segmentation": segmentation})

"""Pictures with class masks and instance maps, in a layout of this package for datasets without a public release."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Fault, Severity
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Case, Image
from medexp.data.sources._class_ids import ClassIds
from medexp.data.sources._files import read_image, read_labels, stem
from medexp.data.sources._instances import numbered
from medexp.data.sources._listed import (
    Groups,
    check_shape,
    checked_root,
    in_channels,
    natural,
    raise_errors,
    told,
    visible,
)

_CLASSES = "classes.json"
_IMAGES, _MASKS, _INSTANCES = "images", "masks", "instances"


class ClassMasks:
    """A folder with images, class masks, optional instance maps, and the names of the classes.

    In the folder are classes.json, which maps each class name to its label id from 1 on; images/NAME.ENDING, grey
    pictures; masks/NAME.ENDING, the label id of each pixel; and, as far as objects are told apart,
    instances/NAME.ENDING, the number of the object of each pixel, 0 where there is none. Image, mask and instance map
    of a case have one NAME, and any ending that is read. Where classes lie inside each other a pixel has the innermost.
    An object has the class that the mask has at its pixels, one for all of them.

    Each annotation serves three tasks: the mask, the objects with their boxes, and as labels of the whole image the
    classes that its mask shows.

    Args:
        root: Folder that holds the others.
        name: Name of the dataset.
        channel: Name of the image's channel.
        n_images: How many images are expected; another number is told as a warning. None expects nothing.
        shape: Rows and columns that are expected; others are told as a warning. None expects nothing.
        group_pattern: Regular expression with one group that finds the patient in NAME; None takes each image as a
            patient of its own.
        public: Whether the images may be shown to anyone.

    Raises:
        UsageError: A knob has an unfit value.
    """

    spatial_dims = 2

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None,
        name: str,
        channel: str = "intensity",
        n_images: int | None = None,
        shape: Sequence[int] | None = None,
        group_pattern: str | None = None,
        public: bool = False,
    ) -> None:
        if shape is not None and (len(shape) != 2 or min(shape) < 1):
            raise UsageError(f"dataset.source.shape needs rows and columns, or null, got {list(shape)}")
        if n_images is not None and n_images < 1:
            raise UsageError(f"dataset.source.n_images needs a number >= 1, or null, got {n_images}")
        self.root = checked_root(root, f"{_CLASSES}, {_IMAGES} and {_MASKS}")
        self.name = name
        self.channels: tuple[str, ...] = (channel,)
        self.n_images = n_images
        self.shape = None if shape is None else tuple(shape)
        self.public = public
        self._groups = Groups(group_pattern)

    @cached_property
    def labels(self) -> Mapping[int, str]:
        """Name of each label id as classes.json has them; DataError where it is missing or malformed."""
        return _read_classes(self.root / _CLASSES)

    def cases(self) -> list[Case]:
        """All cases in the order of their names.

        Listed with their faults are images without mask, masks without image, and, where there is a folder of instance
        maps, images without one. Another number of images than expected stands as a warning with the first case.

        DataError where there is neither an image nor a mask.
        """
        found = {folder: _by_name(self.root / folder) for folder in (_IMAGES, _MASKS, _INSTANCES)}
        names = sorted({name for files in found.values() for name in files}, key=natural)
        if not names:
            expected = f"{_IMAGES} and {_MASKS} with files of one name"
            remedy = "set dataset.root to the folder that holds both"
            raise DataError.of(Fault("unlistable", expected, "neither", remedy, file=self.root))
        cases = [self._case(name, found) for name in names]
        return [replace(cases[0], faults=(*self._count(len(found[_IMAGES])), *cases[0].faults)), *cases[1:]]

    def read(self, case: Case) -> Image:
        """Read image, mask and instances; another shape than expected is told in the faults of the image's case.

        DataError where the case was listed with an error, a file is damaged, the image has colours, shapes differ, or
        an object has several classes or none.
        """
        raise_errors(case)
        pixels, geometry = read_image(case.images[0], case_id=case.case_id, spatial_dims=2)
        pixels = in_channels(pixels, self.channels, case_id=case.case_id, file=case.images[0])
        layers = {name: self._layer(path, pixels.shape[1:], case.case_id) for name, path in case.references.items()}
        mask = layers["mask"]
        image_labels = tuple(int(label) for label in np.unique(mask) if label != 0) or (0,)
        annotation = Annotation(mask=mask, image_labels=image_labels)
        if _INSTANCES in layers:
            path = case.references[_INSTANCES]
            instances, objects = _objects(layers[_INSTANCES], mask, case_id=case.case_id, file=path)
            annotation = replace(annotation, instances=instances, objects=objects)
        return Image(told(case, self._other_shape(case, geometry.shape)), pixels, annotation, geometry)

    def _case(self, name: str, found: Mapping[str, Mapping[str, Sequence[Path]]]) -> Case:
        group, faults = self._groups.of(name)
        needed = {_IMAGES: "missing_image", _MASKS: "missing_label"}
        needed |= {_INSTANCES: "missing_label"} if found[_INSTANCES] else {}
        for folder, check in needed.items():
            files = found[folder].get(name, ())
            if not files:
                remedy = "restore it, or take the other files of this name out"
                faults += (Fault(check, f"one file {name}.* in {folder}", "none", remedy, name, self.root / folder),)
            elif len(files) > 1:
                got = ", ".join(path.name for path in files)
                faults += (Fault("several_files", f"one file {name}.*", got, "remove the others", name, files[0]),)
        references = {"mask": found[_MASKS].get(name, ()), _INSTANCES: found[_INSTANCES].get(name, ())}
        return Case(
            case_id=name,
            group=group,
            images=tuple(found[_IMAGES].get(name, ()))[:1],
            references={role: files[0] for role, files in references.items() if files},
            faults=faults,
        )

    def _layer(self, path: Path, shape: tuple[int, ...], case_id: str) -> Integer[np.ndarray, "rows columns"]:
        layer, _ = read_labels(path, case_id=case_id, spatial_dims=2)
        check_shape(layer.shape, shape, case_id=case_id, file=path)
        return layer

    def _count(self, n_images: int) -> Iterable[Fault]:
        if self.n_images is not None and n_images != self.n_images:
            remedy = "look for what is missing or too much, or set dataset.source.n_images"
            expected, file = f"{self.n_images} images", self.root / _IMAGES
            yield Fault("image_count", expected, f"{n_images}", remedy, file=file, severity=Severity.WARNING)

    def _other_shape(self, case: Case, shape: tuple[int, ...]) -> Iterable[Fault]:
        if self.shape is not None and shape != self.shape:
            remedy = "look at the image, or set dataset.source.shape"
            expected, file = f"shape {self.shape}", case.images[0]
            yield Fault("image_shape", expected, f"{shape}", remedy, case.case_id, file, Severity.WARNING)


def _by_name(folder: Path) -> dict[str, list[Path]]:
    """The pictures of a folder by their name without ending."""
    files: dict[str, list[Path]] = defaultdict(list)
    for path in visible(folder):
        if name := stem(path.name):
            files[name].append(path)
    return files


def _read_classes(path: Path) -> dict[int, str]:
    """Name of each label id."""
    remedy = 'write it as {"name": id, ...}, with ids from 1 on'
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(content, dict) or len(set(content.values())) < len(content):
            raise ValueError(f"{str(content)[:80]}")
        return ClassIds(content).labels
    except (OSError, ValueError, TypeError, RecursionError, UsageError) as error:
        found = f"{type(error).__name__}: {error}"
        raise DataError.of(
            Fault("class_names", "a label id of its own for each class", found, remedy, file=path)
        ) from error


def _objects(
    ids: Integer[np.ndarray, "rows columns"], mask: Integer[np.ndarray, "rows columns"], *, case_id: str, file: Path
) -> tuple[Integer[np.ndarray, "rows columns"], Objects]:
    """Instances numbered from 1 on with the class that the mask has there.

    DataError where one lies on several classes or on the background.
    """
    instances, own = numbered(ids)
    pairs = np.unique(np.stack([instances[instances > 0], mask[instances > 0]]), axis=1)
    numbers, labels = pairs.astype(np.int64)
    wrong = own[np.unique(numbers[(labels == 0) | (np.bincount(numbers, minlength=len(own) + 1)[numbers] > 1)]) - 1]
    if len(wrong):
        found = f"{len(wrong)} objects on several classes or on the background ({', '.join(map(str, wrong[:5]))})"
        remedy = "draw mask and instances alike"
        raise DataError.of(
            Fault("instance_class", "each object on one class of the mask", found, remedy, case_id, file)
        )
    return instances, Objects.of_instances(instances, dict(zip(numbers.tolist(), labels.tolist(), strict=True)))

"""Cases whose image and annotation lie in files of their own: read, compared and brought together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Integer

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Fault
from medexp.core.geometry import Geometry
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Case, Image
from medexp.data.sources._class_ids import BACKGROUND
from medexp.data.sources._files import HEADER_TOLERANCE_VOXELS, read_image, read_labels
from medexp.data.sources._grids import GridRule, check_same_grid
from medexp.data.sources._instances import annotation_of, numbered
from medexp.data.sources._itk import data_file
from medexp.data.sources._listed import in_channels, raise_errors, told

# Names of what a case of such a source has, in its references and in its facts.
MASK, INSTANCES = "mask", "instances"
BOXES, BOX_LABELS, IMAGE_LABELS, SPACING = "boxes", "box_labels", "image_labels", "spacing_mm"

_LAST_LABEL = 2**16 - 1

_Read = TypeVar("_Read")
_Labels = Integer[np.ndarray, "*spatial"]


@dataclass(frozen=True)
class FileReader:
    """Reads cases.

    Attributes:
        spatial_dims: 2 or 3.
        channels: Names of the channels; a case has one file that holds all, or one file for each.
        grid: What becomes of a label that does not lie on the grid of its image.
        spacing_mm: Distance between voxels along each axis of images without a physical scale; None leaves them in
            pixels.
        value_map: Label id of some values of a mask; the others are label ids themselves.
        instance_label: Label id of all instances where there is no mask.
        check_headers: Refuse a NIfTI file whose sform and qform disagree or are both unset.

    Raises:
        UsageError: A knob has an unfit value.
    """

    spatial_dims: int
    channels: tuple[str, ...]
    grid: GridRule
    spacing_mm: tuple[float, ...] | None = None
    value_map: Mapping[int, int] | None = None
    instance_label: int = 1
    check_headers: bool = True

    def __post_init__(self) -> None:
        if self.spatial_dims not in (2, 3):
            raise UsageError(f"dataset.source.spatial_dims needs 2 or 3, got {self.spatial_dims}")
        spacing = self.spacing_mm
        if spacing is not None and (len(spacing) != self.spatial_dims or not all(0 < mm < np.inf for mm in spacing)):
            raise UsageError(
                f"dataset.source.spacing_mm needs {self.spatial_dims} values above 0, one an axis, got {spacing}"
            )
        for value, label in (self.value_map or {}).items():
            if type(value) is not int or not _is_label(label):
                raise UsageError(
                    f"dataset.source.value_map needs {{value: label id}} with ids from 0 to {_LAST_LABEL}, got "
                    f"{self.value_map}"
                )

    def read(self, case: Case) -> Image:
        """Read a case; what does not keep it from being used is told in the faults of the image's case.

        DataError tells all that is wrong with its files: they are missing or damaged, have other channels, or differ
        in their grids.
        """
        raise_errors(case)
        faults: list[Fault] = []
        image = _attempt(partial(self._image, case), faults)
        paths = {name: case.references[name] for name in (MASK, INSTANCES) if name in case.references}
        layers = {name: _attempt(partial(self._layer, path, case, image), faults) for name, path in paths.items()}
        if faults or image is None:
            raise DataError.of(*faults)
        arrays = {name: layer[0] for name, layer in layers.items() if layer is not None}
        warnings = [fault for layer in layers.values() if layer is not None for fault in layer[1]]
        geometry = _scaled(image[1], case.facts.get(SPACING, self.spacing_mm))
        return Image(told(case, warnings), image[0], self._annotation(case, arrays), geometry)

    def _image(self, case: Case) -> tuple[Float32[np.ndarray, "channels *spatial"], Geometry]:
        faults: list[Fault] = []
        one = len(case.images) == 1
        declared = [self.channels] if one else [self.channels[place : place + 1] for place in range(len(case.images))]
        read = [
            _attempt(partial(self._channels, path, channels, case.case_id), faults)
            for path, channels in zip(case.images, declared, strict=True)
        ]
        parts = [part for part in read if part is not None]
        for path, (_, geometry) in zip(case.images[1:], parts[1:], strict=False) if not faults else ():
            for fault in check_same_grid(
                geometry, parts[0][1], tolerance_voxels=self.grid.tolerance_voxels, case_id=case.case_id, path=path
            ):
                faults.append(replace(fault, remedy="bring all channels of a case onto one grid"))
        if faults or not parts:
            raise DataError.of(*faults)
        return np.concatenate([pixels for pixels, _ in parts]) if len(parts) > 1 else parts[0][0], parts[0][1]

    def _channels(
        self, path: Path, channels: tuple[str, ...], case_id: str
    ) -> tuple[Float32[np.ndarray, "channels *spatial"], Geometry]:
        """The values of one file."""
        pixels, geometry = read_image(
            path, case_id=case_id, spatial_dims=self.spatial_dims, header_tolerance_voxels=self._tolerance
        )
        return in_channels(pixels, channels, case_id=case_id, file=path), geometry

    def _layer(
        self, path: Path, case: Case, image: tuple[np.ndarray, Geometry] | None
    ) -> tuple[_Labels, tuple[Fault, ...]]:
        """The labels of one file, on the grid of the image where that could be read, and warnings."""
        labels, geometry = read_labels(
            path, case_id=case.case_id, spatial_dims=self.spatial_dims, header_tolerance_voxels=self._tolerance
        )
        if image is None:
            return labels, ()
        return self.grid.apply(labels, geometry, image[1], case_id=case.case_id, path=path)

    @property
    def _tolerance(self) -> float | None:
        return HEADER_TOLERANCE_VOXELS if self.check_headers else None

    def _annotation(self, case: Case, layers: Mapping[str, _Labels]) -> Annotation | None:
        image_labels = case.facts.get(IMAGE_LABELS)
        annotation = Annotation(image_labels=None if image_labels is None else tuple(image_labels))
        if BOXES in case.facts:
            boxes = np.array(case.facts[BOXES], dtype=np.float64).reshape(-1, 2 * self.spatial_dims)
            annotation = replace(annotation, objects=Objects.of(boxes, np.array(case.facts[BOX_LABELS])))
        if MASK in layers:
            annotation = replace(annotation, mask=self._mapped(layers[MASK]))
        if INSTANCES in layers:
            instances, ids = numbered(layers[INSTANCES])
            labels = self._labels_of_instances(case, instances, ids, annotation.mask)
            found = annotation_of(instances, labels)
            mask = found.mask if annotation.mask is None else annotation.mask
            annotation = replace(annotation, mask=mask, instances=instances, objects=found.objects)
        return None if not layers and BOXES not in case.facts and image_labels is None else annotation

    def _mapped(self, mask: _Labels) -> _Labels:
        if not self.value_map:
            return mask
        fits = mask.dtype == np.uint8 and max(self.value_map.values()) <= np.iinfo(np.uint8).max
        mapped = mask.astype(np.uint8 if fits else np.promote_types(mask.dtype, np.int32))
        for value, label in self.value_map.items():
            mapped[mask == value] = label
        return mapped

    def _labels_of_instances(
        self, case: Case, instances: _Labels, ids: Integer[np.ndarray, "instances"], mask: _Labels | None
    ) -> list[int]:
        """Label of most voxels of each instance in the mask."""
        if mask is None:
            return [self.instance_label] * len(ids)
        found, places = np.unique(mask, return_inverse=True)
        counts = np.bincount(instances.ravel() * len(found) + places.ravel(), minlength=(len(ids) + 1) * len(found))
        voxels = counts.reshape(len(ids) + 1, len(found))[1:]
        voxels[:, found == 0] = 0
        lost = ids[voxels.sum(axis=1) == 0]
        if len(lost):
            raise DataError.of(
                Fault(
                    check="instance_without_label",
                    expected="a label in the mask for each instance",
                    found=f"background for {len(lost)} of {len(ids)} (id {', '.join(map(str, lost[:5]))})",
                    remedy="correct the mask or the instances",
                    case_id=case.case_id,
                    file=case.references[INSTANCES],
                )
            )
        return found[voxels.argmax(axis=1)].tolist()


def checked_labels(labels: Mapping[int, str] | None, *, background: bool) -> dict[int, str]:
    """Name of each label id, in order.

    Args:
        labels: As the configuration gives them; None stands for a background and a foreground.
        background: Whether they are labels of voxels, where 0 is the background.

    Returns:
        The names.

    Raises:
        UsageError: They are no names of ids, or a name occurs twice.
    """
    names = {0: BACKGROUND, 1: "foreground"} if labels is None else dict(labels)
    fit = all(_is_label(label) and isinstance(name, str) for label, name in names.items())
    if not names or not fit or len(set(names.values())) < len(names):
        raise UsageError(
            f"dataset.source.labels needs {{id: name}} with ids up to {_LAST_LABEL} and distinct names, got {labels}"
        )
    return dict(sorted(({0: BACKGROUND} | names if background else names).items()))


def only_label(labels: Mapping[int, str]) -> int:
    """The label of all instances where no mask tells it; UsageError where there are several."""
    found = [label for label in labels if label != 0]
    if len(found) != 1:
        raise UsageError(
            f"dataset.source.labels needs one label beside the background where no mask tells the label of an "
            f"instance, got {dict(labels)}"
        )
    return found[0]


def _is_label(value: object) -> bool:
    return type(value) is int and 0 <= value <= _LAST_LABEL


def with_data_files(images: tuple[Path, ...], references: Mapping[str, Path]) -> dict[str, Path]:
    """The references with the files that hold the voxels of .mhd and .nhdr headers, as their content counts too."""
    named = {**{f"image_{place}": path for place, path in enumerate(images)}, **references}
    held = {f"{name}_data": data_file(path) for name, path in named.items()}
    return {**references, **{name: path for name, path in held.items() if path is not None}}


def _scaled(geometry: Geometry, spacing_mm: Sequence[float] | None) -> Geometry:
    """The grid of an image without a physical scale, with the spacing that is known of it."""
    if geometry.unit == "mm" or spacing_mm is None:
        return geometry
    return Geometry.from_spacing(geometry.shape, tuple(map(float, spacing_mm)))


def _attempt(read: Callable[[], _Read], faults: list[Fault]) -> _Read | None:
    """What is read, or None where that fails, with the faults told."""
    try:
        return read()
    except DataError as error:
        if not error.faults:
            raise
        faults.extend(error.faults)
        return None

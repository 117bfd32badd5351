"""Checks of the label ids and instances of one case."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from medexp.core.faults import Fault
from medexp.core.types import Case
from medexp.data.integrity.checks import fault
from medexp.data.integrity.demands import Demands
from medexp.data.integrity.files import reference_file
from medexp.data.integrity.measurement import InstanceIds, Measurement

_NAMED = 5
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
# The largest ids of unsigned and signed 8 and 16 bits.
_LAST_IDS = (2**7 - 1, 2**8 - 1, 2**15 - 1, 2**16 - 1)


def unannotated(case: Case, seen: Measurement, demands: Demands) -> Iterator[Fault]:
    """A case without any annotation."""
    if seen.mask is None and seen.instances is None and seen.objects is None and seen.image_labels is None:
        yield fault(
            "unannotated",
            case=case,
            file=reference_file(case),
            expected="an annotation",
            found="an image alone",
            remedy="add its annotation, or take the case out of the dataset",
        )


def lossy_mask(case: Case, seen: Measurement, demands: Demands) -> Iterator[Fault]:
    """A mask that was read from a JPEG."""
    for name in ("mask", "instances"):
        path = case.references.get(name)
        if path is not None and path.suffix.lower() in _JPEG:
            yield fault(
                "lossy_mask",
                case=case,
                file=path,
                expected=f"{name} in a format that keeps every value",
                found="JPEG, which changes labels at borders",
                remedy="make it again from its source as PNG, TIFF or NIfTI",
            )


def undeclared_labels(case: Case, seen: Measurement, demands: Demands) -> Iterator[Fault]:
    """Label ids in mask, objects or image labels that the dataset does not declare."""
    declared = set(demands.labels) | {demands.training.ignored_label}
    in_mask = {} if seen.mask is None else {label: n for label, n in seen.mask.voxels.items() if label not in declared}
    if in_mask:
        counted = f"{_listed(in_mask)} ({sum(in_mask.values())} voxels)"
        yield _undeclared(case, reference_file(case, "mask"), "mask", counted, demands, _as_picture(seen, demands))
    objects = () if seen.objects is None else seen.objects.labels
    for place, found in (("objects", objects), ("image labels", seen.image_labels or ())):
        unknown = sorted({label for label in found if label not in declared})
        if unknown:
            yield _undeclared(case, reference_file(case), place, _listed(unknown), demands, None)


def _undeclared(case: Case, file: Path | None, place: str, found: str, demands: Demands, remedy: str | None) -> Fault:
    return fault(
        "undeclared_label",
        case=case,
        file=file,
        expected=f"label ids of {_listed(demands.labels)} in its {place}",
        found=f"also {found}",
        remedy=remedy or "declare them, or correct the annotation",
    )


def _as_picture(seen: Measurement, demands: Demands) -> str | None:
    """What to do about a mask that was saved as a picture to be looked at."""
    ids = set() if seen.mask is None else set(seen.mask.voxels)
    if max(ids, default=0) == 255 and ids <= {0, 255}:
        return "it looks like a mask saved as 0 and 255: save it as 0 and 1"
    if max(ids, default=0) == 255 and len(ids) == len(demands.labels):
        return f"it looks like labels stretched to grey levels: save them as {_listed(demands.labels)}"
    return None


def empty_label(case: Case, seen: Measurement, demands: Demands) -> Iterator[Fault]:
    """A mask without foreground, or an image of which it is known that it has no object."""
    if seen.objects is not None:
        if not seen.objects.boxes:
            yield _empty(case, "no_objects", reference_file(case), "objects", "none")
    elif seen.mask is not None:
        nothing = {0, demands.training.ignored_label}
        if not any(voxels for label, voxels in seen.mask.voxels.items() if label not in nothing):
            yield _empty(case, "empty_label", reference_file(case, "mask"), "a mask with foreground", "background only")


def _empty(case: Case, check: str, file: Path | None, expected: str, found: str) -> Fault:
    return fault(
        check,
        case=case,
        file=file,
        expected=expected,
        found=found,
        remedy=f"look whether it was annotated; where it is right, set dataset.checks={{{check}:ignore}}",
    )


def instance_ids(case: Case, seen: Measurement, demands: Demands) -> Iterator[Fault]:
    """Instance ids that are not 1 to n, or that began again at 0 where their data type ended."""
    ids = seen.instances
    if ids is None:
        return
    n_objects = ids.n_ids if seen.objects is None else len(seen.objects.boxes)
    if ids.lowest < 0 or ids.highest != n_objects or ids.n_ids != n_objects:
        beyond = f", and their data type ends at {ids.largest_storable}" if n_objects > ids.largest_storable else ""
        yield fault(
            "instance_ids",
            case=case,
            file=reference_file(case, "instances"),
            expected=f"the ids 1 to {n_objects}, one an object",
            found=f"{ids.n_ids} ids from {ids.lowest} to {ids.highest}{beyond}",
            remedy="number the instances from 1 on, in a data type that holds them all",
        )
    elif ids.highest in _LAST_IDS and ids.in_parts:
        yield _began_again(case, ids)


def _began_again(case: Case, ids: InstanceIds) -> Fault:
    bits = 8 if ids.highest < 2**8 else 16
    return fault(
        "instance_ids",
        case=case,
        file=reference_file(case, "instances"),
        expected="an id for each instance",
        found=f"ids that end at {ids.highest}, the last of {bits} bits, {len(ids.in_parts)} of them on several parts",
        remedy=f"save the instances with more than {bits} bits; some ids seem to have been given twice",
    )


def disconnected_instances(case: Case, seen: Measurement, demands: Demands) -> Iterator[Fault]:
    """Ids on several parts that do not touch."""
    parts = () if seen.instances is None else seen.instances.in_parts
    if parts:
        yield fault(
            "disconnected_instance",
            case=case,
            file=reference_file(case, "instances"),
            expected="instances in one piece",
            found=f"{len(parts)} in several: {_listed(parts)}",
            remedy="look whether two objects share an id; if not, set dataset.checks={disconnected_instance:ignore}",
        )


def _listed(labels: Collection[int]) -> str:
    shown = [str(label) for label in sorted(labels)[:_NAMED]]
    return ", ".join(shown) + (", ..." if len(labels) > _NAMED else "")

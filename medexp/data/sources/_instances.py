"""Instance maps, in which each voxel belongs to one object at most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int32, Integer

from medexp.core.faults import Fault, Severity
from medexp.core.objects import Objects
from medexp.core.types import Annotation

# Places in a flat array of voxels, the last axis running fastest.
Voxels = Integer[np.ndarray, "_"]
_NAMED = 5
# Up to here a table of all ids is faster than sorting the voxels.
_TABLE = 2**22


@dataclass(frozen=True, eq=False)
class Layered:
    """Objects laid on each other, the smaller on top.

    Attributes:
        instances: Ids from 1 on, 0 where there is none.
        kept: Numbers of the objects that have a voxel of their own; instance k is object `kept[k - 1]`.
        shared: Share of each object's voxels that another one holds too; 0 for an object without any.
    """

    instances: Int32[np.ndarray, "*spatial"]
    kept: Integer[np.ndarray, "kept"]
    shared: Float[np.ndarray, "objects"]

    @classmethod
    def of(cls, objects: Sequence[Voxels], shape: tuple[int, ...]) -> Layered:
        """Lay objects on each other; of two of the same size the later one lies on top.

        Args:
            objects: The voxels of each object, each voxel once.
            shape: Voxels of the image along each axis.

        Returns:
            The map.
        """
        top, claims = np.zeros(math.prod(shape), dtype=np.int32), np.zeros(math.prod(shape), dtype=np.int32)
        for number in sorted(range(len(objects)), key=lambda number: -len(objects[number])):
            top[objects[number]] = number + 1
            claims[objects[number]] += 1
        kept = np.flatnonzero(np.bincount(top, minlength=len(objects) + 1)[1:])
        identity = np.zeros(len(objects) + 1, dtype=np.int32)
        identity[kept + 1] = np.arange(1, len(kept) + 1)
        shared = [float((claims[voxels] > 1).mean()) if len(voxels) else 0.0 for voxels in objects]
        return cls(identity[top].reshape(shape), kept, np.array(shared, dtype=np.float64))

    def faults(self, *, max_overlap: float, case_id: str, file: Path | None) -> tuple[Fault, ...]:
        """What an instance map cannot hold, as warnings.

        Args:
            max_overlap: Largest share of its voxels that an object may share with others without being told.
            case_id: The case.
            file: What holds the objects.

        Returns:
            The faults.
        """
        lost = np.setdiff1d(np.arange(len(self.shared)), self.kept)
        much = np.flatnonzero(self.shared > max_overlap)
        told = [
            (
                "object_without_voxels",
                lost,
                "objects with voxels of their own",
                "they are no instances; remove what was annotated twice or has no extent",
            ),
            (
                "overlapping_objects",
                much,
                f"objects that share at most {max_overlap:g} of their voxels with others",
                "voxels of two objects go to the smaller one; correct them, or raise dataset.source.max_overlap",
            ),
        ]
        return tuple(
            Fault(check, expected, self._listed(which), remedy, case_id, file, Severity.WARNING)
            for check, which, expected, remedy in told
            if len(which)
        )

    def _listed(self, which: Integer[np.ndarray, "_"]) -> str:
        numbers = ", ".join(str(number + 1) for number in which[:_NAMED]) + (", ..." if len(which) > _NAMED else "")
        return f"{len(which)} of {len(self.shared)} that are not (number {numbers})"


def annotation_of(
    instances: Integer[np.ndarray, "*spatial"], labels: Sequence[int], *, objects: Objects | None = None
) -> Annotation:
    """Mask, instances and objects from an instance map.

    Args:
        instances: Ids 1 to n, 0 where there is none.
        labels: Label id of each instance.
        objects: Their boxes where a file gives them; else those around their voxels.

    Returns:
        The annotation.
    """
    ids = np.array([0, *labels], dtype=np.uint8 if max(labels, default=0) < 2**8 else np.int32)
    if objects is None:
        objects = Objects.of_instances(instances, dict(enumerate(labels, start=1)))
    return Annotation(mask=ids[instances], instances=instances, objects=objects)


def numbered(
    ids: Integer[np.ndarray, "*spatial"],
) -> tuple[Int32[np.ndarray, "*spatial"], Integer[np.ndarray, "instances"]]:
    """Instances numbered from 1 on without gaps.

    Args:
        ids: Ids from 0 on, 0 where there is none.

    Returns:
        The instances in the order of their ids, and the id that each had.
    """
    if ids.max(initial=0) < _TABLE:
        found = np.flatnonzero(np.bincount(ids.reshape(-1), minlength=1))
        number = np.zeros(int(found[-1]) + 1 if len(found) else 1, dtype=np.int32)
        found = found[found > 0]
        number[found] = np.arange(1, len(found) + 1)
        return number[ids], found
    found, places = np.unique(np.append(ids, 0), return_inverse=True)
    return places[:-1].reshape(ids.shape).astype(np.int32), found[1:]

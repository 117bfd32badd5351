"""One annotation serves other tasks: what a dataset says is turned, step by step, into what a task needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from medexp.core.errors import DataError
from medexp.core.faults import Fault
from medexp.core.types import Annotation, Case, Image, Source


@runtime_checkable
class Derivation(Protocol):
    """Makes one annotation from another, on the image's own grid."""

    def labels(self, labels: Mapping[int, str]) -> Mapping[int, str]:
        """Name of each label id afterwards; UsageError where the step names a label that is not among them."""
        ...

    def __call__(self, image: Image, labels: Mapping[int, str]) -> Annotation:
        """The new annotation; `needed` tells what the step lacks."""
        ...


class Derived:
    """The images of another source, with annotations that were made from its own.

    Args:
        source: Lists and reads the cases.
        steps: What is done to each annotation, in order; at least one.

    Raises:
        UsageError: A step names a label that is not there.
    """

    def __init__(self, *, source: Source, steps: Sequence[Derivation]) -> None:
        self.source = source
        self.steps = tuple(steps)
        self.name = source.name
        self.spatial_dims = source.spatial_dims
        self.channels = source.channels
        self.public = source.public
        self._labels = [source.labels]
        for step in self.steps:
            self._labels.append(step.labels(self._labels[-1]))
        self.labels: Mapping[int, str] = self._labels[-1]

    def cases(self) -> list[Case]:
        """All cases of the source."""
        return self.source.cases()

    def read(self, case: Case) -> Image:
        """Read one case and derive its annotation; DataError where it has not what a step needs."""
        image = self.source.read(case)
        if image.annotation is None:
            return image
        for step, labels in zip(self.steps, self._labels, strict=False):
            image = replace(image, annotation=step(image, labels))
        return image


def needed(image: Image, what: str, step: str) -> DataError:
    """The error of a step whose image has not what it needs.

    Args:
        image: The image.
        what: What it lacks, in words.
        step: Name of the step.

    Returns:
        The error, to be raised.
    """
    return DataError.of(
        Fault(
            check="missing_annotation",
            expected=f"{what} for dataset.derive={step}",
            found="none",
            remedy="add it to the dataset, or leave the step out",
            case_id=image.case.case_id,
        )
    )

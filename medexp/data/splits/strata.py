"""What cases show, so that each part of a split can show the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from medexp.core.errors import DataError, UsageError, did_you_mean
from medexp.core.types import Case
from medexp.data.splits.parts import Split

BY = ("label", "presence", "load")
# Under this name the facts of a case hold the label ids of the whole image.
IMAGE_LABELS = "image_labels"
_NOTHING = "nothing"


@dataclass(frozen=True)
class Contents:
    """What the annotation of a case shows.

    Attributes:
        image_labels: Label ids that hold for the whole image; None where it has no such annotation.
        amounts: How much there is of each label id: mm3 of a mask (mm2 or pixels in 2D), else the number of objects.
    """

    image_labels: tuple[int, ...] | None = None
    amounts: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Known:
    """What a split may ask about the cases that it divides.

    Attributes:
        labels: Name of each label id; 0 is the background.
        contents: Tells what each of these cases shows, by case id.
    """

    labels: Mapping[int, str]
    contents: Callable[[Sequence[Case]], Mapping[str, Contents]]


class Strata:
    """The strata that each case belongs to, by name.

    Args:
        by: "label": the labels of the image. "presence": which classes occur. "load": how much there is of the classes
            together, in quantiles, beside the cases that show none. None: all cases are alike.
        classes: Names of the labels that are looked at; None: all but the background.
        quantiles: Number of strata of the load.
        known: Whom to ask what cases show.
        key: The knob that asks for strata, for errors.

    Raises:
        UsageError: A knob has an unfit value.
    """

    def __init__(
        self,
        *,
        by: str | None,
        classes: Sequence[str] | None,
        quantiles: int,
        known: Known | None = None,
        key: str = "dataset.split.stratify",
    ) -> None:
        if by not in (None, *BY):
            raise UsageError(f"{key} needs {', '.join(BY)} or null, got {by}{did_you_mean(str(by), BY)}")
        if quantiles < 2:
            raise UsageError(f"dataset.split.stratify_quantiles needs at least 2, got {quantiles}")
        self.by = by
        self.classes = None if classes is None else tuple(classes)
        self.quantiles = quantiles
        self.known = known
        self.key = key

    def informed(self, known: Known) -> Strata:
        """The same strata, which know whom to ask."""
        return Strata(by=self.by, classes=self.classes, quantiles=self.quantiles, known=known, key=self.key)

    def __call__(self, cases: Sequence[Case]) -> dict[str, tuple[str, ...]]:
        """Names of the strata of each case, by case id; several where it shows several labels.

        Args:
            cases: The cases that are divided.

        Returns:
            The names, in alphabetical order.

        Raises:
            UsageError: A class is not declared, or nobody can be asked.
            DataError: The cases have no labels of images.
        """
        if self.by is None:
            return {case.case_id: () for case in cases}
        if self.known is None:
            raise UsageError(f"{self.key}={self.by} needs the dataset's annotation; none was given")
        looked_at = self._looked_at(self.known.labels)
        contents = self._of_tables(cases) or self.known.contents(cases)
        if self.by == "load":
            loads = {name: sum(item.amounts.get(i, 0.0) for i in looked_at) for name, item in contents.items()}
            return _quantiles(loads, number=self.quantiles)
        shown = {name: _shown(item, f"case {name}: {self.key}", by=self.by) for name, item in contents.items()}
        return {name: _names([looked_at[i] for i in looked_at if i in ids]) for name, ids in shown.items()}

    def _of_tables(self, cases: Sequence[Case]) -> dict[str, Contents] | None:
        """What tables say of the labels of all images, so that no image has to be read for it."""
        if self.by != "label" or not all(IMAGE_LABELS in case.facts for case in cases):
            return None
        return {case.case_id: Contents(image_labels=tuple(case.facts[IMAGE_LABELS])) for case in cases}

    def _looked_at(self, labels: Mapping[int, str]) -> dict[int, str]:
        """Label ids and names of the chosen classes."""
        ids = {name: identity for identity, name in labels.items()}
        if self.classes is None:
            return {i: name for i, name in labels.items() if i != 0 or self.by == "label"}
        for name in self.classes:
            if name not in ids:
                raise UsageError(
                    f"dataset.split.stratify_classes names {name}, which is no label of the dataset"
                    f"{did_you_mean(name, ids)} (known: {', '.join(ids)})"
                )
        return {ids[name]: name for name in self.classes}


def _shown(contents: Contents, where: str, *, by: str) -> set[int]:
    if by == "presence":
        return {label for label, amount in contents.amounts.items() if amount > 0}
    if contents.image_labels is None:
        raise DataError(f"{where}=label needs labels of images, got none; choose presence or load")
    return set(contents.image_labels)


def _names(shown: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(shown)) or (_NOTHING,)


def _quantiles(loads: Mapping[str, float], *, number: int) -> dict[str, tuple[str, ...]]:
    """Strata of equal size by rank, beside the cases without any load; equal loads share a stratum."""
    some = np.array(sorted(load for load in loads.values() if load > 0))
    ends = np.quantile(some, np.arange(1, number) / number) if len(some) else some
    return {
        name: (f"load {int(np.searchsorted(ends, load, side='left')) + 1}",) if load > 0 else (_NOTHING,)
        for name, load in loads.items()
    }


def informed(split: Split, known: Known) -> Split:
    """A split that may ask what cases show, if it has strata.

    Args:
        split: Any split.
        known: Whom it asks; nothing is read before it does.

    Returns:
        A split that divides in the same way, or the split itself where it asks nothing.
    """
    strata = getattr(split, "strata", None)
    if not isinstance(strata, Strata):
        return split
    told = copy.copy(split)
    told.strata = strata.informed(known)  # type: ignore[attr-defined]
    return told

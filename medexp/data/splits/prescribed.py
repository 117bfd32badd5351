"""The division that the dataset itself prescribes."""

from __future__ import annotations

from collections.abc import Sequence

from medexp.core.errors import DataError
from medexp.core.types import Case
from medexp.data.splits.drawing import Draw
from medexp.data.splits.parts import NAMES, Parts, check_only_fold
from medexp.data.splits.strata import Strata


class Prescribed:
    """The dataset's own parts; a case of which it says nothing is a training case.

    Args:
        seed: Seed of the draws.
        stratify: What each draw has its share of, as in `KFold`.
        stratify_classes: Names of the labels that are looked at; None: all but the background.
        stratify_quantiles: Number of strata of the load.
        n_train: How many training cases are drawn; None for all.
        draw: Number of the draw.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        stratify: str | None = None,
        stratify_classes: Sequence[str] | None = None,
        stratify_quantiles: int = 4,
        n_train: int | None = None,
        draw: int = 0,
    ) -> None:
        self.strata = Strata(by=stratify, classes=stratify_classes, quantiles=stratify_quantiles)
        self.draw = Draw(n_train=n_train, draw=draw, seed=seed)

    def __call__(self, cases: Sequence[Case], *, fold: int) -> Parts:
        """The parts.

        Args:
            cases: All cases of the dataset.
            fold: Has to be 0.

        Returns:
            The parts, with the cases in the order of the dataset.

        Raises:
            UsageError: Another fold is asked for.
            DataError: The dataset prescribes nothing, or a part that is none.
        """
        check_only_fold(fold, split="prescribed", instead="choose dataset/split=kfold for folds of the training part")
        said = {case.split for case in cases}
        unknown = sorted(map(str, said - {None, *NAMES}))
        if unknown:
            raise DataError(f"the dataset prescribes the part {unknown[0]}; a part is {', '.join(NAMES)}")
        if said <= {None, "train"}:
            raise DataError(
                "the dataset prescribes neither a val nor a test part; choose dataset/split=kfold or holdout"
            )
        parts = Parts(
            train=tuple(case for case in cases if case.split in (None, "train")),
            val=tuple(case for case in cases if case.split == "val"),
            test=tuple(case for case in cases if case.split == "test"),
        )
        return self.draw(parts, self.strata)

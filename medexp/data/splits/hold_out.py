"""One division at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medexp.core.errors import DataError
from medexp.core.types import Case
from medexp.data.splits.dealing import spread
from medexp.data.splits.drawing import Draw
from medexp.data.splits.held_out import check_only_test_part, check_sizes, first_groups
from medexp.data.splits.parts import Parts, check_only_fold, set_apart
from medexp.data.splits.strata import Strata


class HoldOut:
    """One random division over groups. Cases that the dataset sets apart as "test" stay apart.

    Args:
        val: Held-out cases: a share of the cases that may be learnt from (below 1), or their number; as near to it as
            whole groups come.
        test: The same for a test part, where the dataset has none of its own; None for none.
        seed: Seed of the shuffle of the groups; the same for every run, whatever its training seed.
        stratify: Give each part its share of the images of each "label", of those that show each class ("presence"), or
            of each "load" of the classes; None does not look.
        stratify_classes: Names of the labels that are looked at; None: all but the background.
        stratify_quantiles: Number of strata of the load.
        n_train: How many training cases are drawn; None for all.
        draw: Number of the draw.

    Raises:
        UsageError: A knob has an unfit value.
    """

    def __init__(
        self,
        *,
        val: float | int,
        test: float | int | None,
        seed: int,
        stratify: str | None = None,
        stratify_classes: Sequence[str] | None = None,
        stratify_quantiles: int = 4,
        n_train: int | None = None,
        draw: int = 0,
    ) -> None:
        check_sizes(val=val, test=test)
        self.val = val
        self.test = test
        self.seed = seed
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
            UsageError: Another fold is asked for, or a test part beside the dataset's own.
            DataError: No case is left to learn from.
        """
        check_only_fold(fold, split="holdout", instead="for another division choose another dataset.split.seed")
        learning, test = set_apart(cases)
        check_only_test_part(test, self.test)
        held_out = self._held_out(learning)
        parts = Parts(
            train=tuple(case for case in learning if held_out.get(case.group) is None),
            val=tuple(case for case in learning if held_out.get(case.group) == "val"),
            test=test or tuple(case for case in learning if held_out.get(case.group) == "test"),
        )
        return self.draw(parts, self.strata)

    def _held_out(self, cases: Sequence[Case]) -> dict[str, str]:
        """The part of each group that is held out."""
        order = spread(cases, self.strata(cases), np.random.default_rng(self.seed))
        found: dict[str, str] = {}
        for name, size in (("test", self.test), ("val", self.val)):
            if size is not None:
                found |= dict.fromkeys(first_groups(order[len(found) :], cases, size=size), name)
        if len(found) == len(order):
            raise DataError(
                f"dataset.split.val={self.val} and test={self.test} leave nothing to learn from of {len(cases)} cases "
                f"in {len(order)} groups; hold out fewer"
            )
        return found

"""Some of the training cases: the axis of a learning curve, and protocols that draw N images several times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from medexp.core.errors import UsageError
from medexp.core.types import Case
from medexp.data.splits.dealing import StrataOf, members_of_groups, spread
from medexp.data.splits.parts import Parts


class Draw:
    """Draws training cases; what is not drawn is left out, and the held-out parts stay as they are.

    Draws are nested: the 16 cases of draw 2 are among its 32, so that the points of a learning curve differ in what
    was added alone. Draws of other numbers are independent.

    Args:
        n_train: How many cases are drawn; None for all.
        draw: Number of the draw.
        seed: Seed of all draws.

    Raises:
        UsageError: A number is out of range.
    """

    def __init__(self, *, n_train: int | None, draw: int, seed: int) -> None:
        if n_train is not None and n_train < 1:
            raise UsageError(f"dataset.split.n_train needs at least 1 case, or null for all, got {n_train}")
        if draw < 0:
            raise UsageError(f"dataset.split.draw needs 0 or more, got {draw}")
        if n_train is None and draw:
            raise UsageError(f"dataset.split.draw={draw} draws nothing without dataset.split.n_train; give a number")
        self.n_train = n_train
        self.draw = draw
        self.seed = seed

    def __call__(self, parts: Parts, strata: Callable[[Sequence[Case]], StrataOf]) -> Parts:
        """The parts with the drawn training cases, in the order of the dataset.

        Args:
            parts: The parts of the whole dataset.
            strata: Strata of cases; each draw has its share of all of them.

        Returns:
            The parts.

        Raises:
            UsageError: There are not so many training cases.
        """
        if self.n_train is None:
            return parts
        if self.n_train > len(parts.train):
            raise UsageError(
                f"dataset.split.n_train={self.n_train} needs as many training cases, got {len(parts.train)}"
            )
        members = members_of_groups(parts.train)
        order = spread(parts.train, strata(parts.train), np.random.default_rng((self.seed, self.draw)))
        ids = [case.case_id for group in order for case in members[group]]
        drawn = set(ids[: self.n_train])
        return replace(parts, train=tuple(case for case in parts.train if case.case_id in drawn))

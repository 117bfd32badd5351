"""How many cases are held out, and of which groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medexp.core.errors import UsageError
from medexp.core.types import Case
from medexp.data.splits.dealing import members_of_groups

Size = float | int


def check_sizes(**sizes: Size | None) -> None:
    """Refuse sizes of parts that are neither a share nor a number of cases.

    Args:
        **sizes: By the knob of `dataset.split`.

    Raises:
        UsageError: Names the knob.
    """
    for name, size in sizes.items():
        if size is not None and not (0 < size < 1 if isinstance(size, float) else size >= 1):
            raise UsageError(
                f"dataset.split.{name} needs a share above 0 and below 1, or a whole number of cases, got {size}"
            )


def check_only_test_part(own: Sequence[Case], wanted: Size | None) -> None:
    """Refuse a second test part.

    Args:
        own: Cases that the dataset sets apart itself.
        wanted: Size of the part that is asked for.

    Raises:
        UsageError: There are both.
    """
    if own and wanted is not None:
        raise UsageError(
            f"dataset.split.test={wanted} would be a second test part beside the dataset's own of {len(own)} cases; "
            "set it to null"
        )


def first_groups(order: Sequence[str], cases: Sequence[Case], *, size: Size) -> Sequence[str]:
    """The first groups of an order whose cases come nearest to a size.

    Args:
        order: Groups.
        cases: All cases that a share is of.
        size: A share of the cases, or their number.

    Returns:
        The groups, one at least where there is one.
    """
    counts = {group: len(members) for group, members in members_of_groups(cases).items()}
    wanted = round(size * len(cases)) if isinstance(size, float) else size
    return _nearest_beginning(order, counts, wanted=wanted)


def _nearest_beginning(order: Sequence[str], sizes: Mapping[str, int], *, wanted: int) -> Sequence[str]:
    """The first groups, one at least, whose number of cases comes nearest to what is wanted."""
    totals = np.cumsum([sizes[group] for group in order])
    return order[: 1 + int(np.argmin(np.abs(totals - wanted)))] if len(totals) else []

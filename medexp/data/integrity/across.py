"""Checks of cases against each other, after they were read."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from medexp.core.faults import Fault
from medexp.core.types import Case
from medexp.data.integrity.checks import fault
from medexp.data.integrity.demands import Demands
from medexp.data.integrity.files import image_file
from medexp.data.integrity.measurement import Measurement
from medexp.data.splits import Parts

Measured = Sequence[tuple[Case, Measurement]]

_NAMES = ("test", "val", "train")
# Fewer cases do not tell what is usual; more channels have too many orders to try.
_FEWEST_CASES, _MOST_CHANNELS = 5, 5
# In units of the usual deviation: what is unlike the other cases, and what is like them.
_UNLIKE, _LIKE = 12.0, 4.0


def equal_images(measured: Measured, parts: Parts | None) -> Iterator[Fault]:
    """Cases with the same image; one in another part of the split leaks what is held out.

    Args:
        measured: The cases that could be read.
        parts: The split, if there is one.

    Yields:
        A fault for each case whose image an earlier one has, the tested ones first.
    """
    part_of = _part_of(parts)
    same: dict[str, list[Case]] = defaultdict(list)
    order = {name: place for place, name in enumerate(_NAMES)}
    for case, seen in sorted(measured, key=lambda pair: order.get(part_of.get(pair[0].case_id, ""), len(order))):
        if not seen.is_constant:
            same[seen.image_hash].append(case)
    for first, *others in same.values():
        for case in others:
            if case.case_id != first.case_id:  # else the list of cases is at fault
                yield _equal(case, first, part_of)


def _equal(case: Case, first: Case, part_of: Mapping[str, str]) -> Fault:
    own, other = part_of.get(case.case_id), part_of.get(first.case_id)
    check, remedy = "equal_images", "remove one of them"
    if own != other:
        check, remedy = "leaked_image", "remove one of them, or give both cases one group"
    elif case.images and case.images == first.images:
        check, remedy = "image_listed_twice", "list the image once"
    return fault(
        check,
        case=case,
        file=image_file(case),
        expected=f"an image of its own{'' if own is None else f' in {own}'}",
        found=f"that of case {first.case_id}{'' if other is None else f' in {other}'}{_in_file(first)}",
        remedy=remedy,
    )


def _in_file(case: Case) -> str:
    file = image_file(case)
    return "" if file is None else f" ({file})"


def class_absent(measured: Measured, parts: Parts | None, demands: Demands) -> Iterator[Fault]:
    """Classes that a part of the split does not hold.

    Args:
        measured: The cases that could be read.
        parts: The split; without one the whole dataset is one part.
        demands: What the dataset declares.

    Yields:
        A fault for each class.
    """
    part_of = {case.case_id: "the dataset" for case, _ in measured} if parts is None else _part_of(parts)
    found: dict[str, set[int]] = defaultdict(set)
    background = {0}
    for case, seen in measured:
        if case.case_id in part_of:
            found[part_of[case.case_id]] |= seen.used.labels
            # Of whole images, 0 is a class like the others.
            background -= set(seen.used.image_labels or ())
    for label, name in demands.used_labels.items():
        without = [part for part in sorted(found, reverse=True) if label not in found[part]]
        if without and label not in background | {demands.training.ignored_label}:
            yield fault(
                "class_absent",
                expected=f"{name} ({label}) in each part of the split",
                found=f"no case with it in {', '.join(without)}",
                remedy="choose another split, or leave the class out; its metrics are undefined there",
            )


def channel_order(measured: Measured, demands: Demands) -> Iterator[Fault]:
    """Cases whose channels are like those of the others once they are put into another order.

    Args:
        measured: The cases that could be read.
        demands: What the dataset declares.

    Yields:
        The faults.
    """
    n_channels = len(demands.channels)
    whole = [(case, seen) for case, seen in measured if len(seen.channels) == n_channels]
    if not 1 < n_channels <= _MOST_CHANNELS or len(whole) < _FEWEST_CASES:
        return
    values = np.array([[(channel.mean, channel.std) for channel in seen.channels] for _, seen in whole])
    usual = np.nanmedian(values, axis=0)
    deviation = np.maximum(1.4826 * np.nanmedian(np.abs(values - usual), axis=0), 1e-6 * (1 + np.abs(usual)))
    for (case, _), own in zip(whole, values, strict=True):
        order = _better_order(own, usual, deviation)
        if order is not None:
            yield fault(
                "channel_order",
                case=case,
                file=image_file(case),
                expected=f"the channels {', '.join(demands.channels)} in this order",
                found=f"values as the other cases have them in {', '.join(demands.channels[i] for i in order)}",
                remedy="look at its channels, and exchange them where they are mixed up",
            )


def _better_order(
    own: Float[np.ndarray, "channels 2"],
    usual: Float[np.ndarray, "channels 2"],
    deviation: Float[np.ndarray, "channels 2"],
) -> tuple[int, ...] | None:
    """What each channel seems to be, if the order as it is is unlike the other cases and another one is like them."""
    cost = np.abs(own[:, None] - usual[None]) / deviation[None]
    far = cost.max(axis=2)  # of channel i, taken for channel j
    channels = range(len(own))
    if not far[channels, channels].max() > _UNLIKE:
        return None
    best = min(itertools.permutations(channels), key=lambda order: float(far[channels, order].max()))
    return best if far[channels, best].max() < _LIKE else None


def _part_of(parts: Parts | None) -> dict[str, str]:
    return {} if parts is None else {case.case_id: name for name in _NAMES for case in getattr(parts, name)}

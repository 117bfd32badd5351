"""Colours of instances, so that those that touch never share one and those that are near seldom do."""

from __future__ import annotations

import colorsys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import product

import numpy as np
from jaxtyping import Integer
from scipy.ndimage import find_objects

# M. Okabe and K. Ito, Color universal design (2008), without black; the ones that stand out on grey come first.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2")
# Each as far as can be from all before it for the readers that the tests simulate.
_FURTHER = ("#884433", "#99FFBB", "#8877FF", "#88BB77", "#5511EE")
_COLOURS = 64
_GOLDEN = 0.618034
_NEAR_VOXELS = 8


def _hues() -> Iterator[str]:
    """Colours for the rare object that touches twelve others: each hue a golden section of the circle from the last."""
    for number in range(_COLOURS - len(PALETTE) - len(_FURTHER)):
        rgb = colorsys.hsv_to_rgb(number * _GOLDEN % 1.0, 0.75 - 0.25 * (number % 2), 0.95)
        yield "#" + "".join(f"{round(255 * part):02X}" for part in rgb)


INSTANCE_COLOURS = (*PALETTE, *_FURTHER, *_hues())


class Neighbours:
    """Which objects touch, and how often they are near each other, in one label image or in several of a sequence."""

    def __init__(self) -> None:
        self._touching: dict[int, set[int]] = {}
        self._near: dict[int, Counter[int]] = defaultdict(Counter)

    def add(self, ids: Integer[np.ndarray, "*spatial"]) -> None:
        """Look at an image.

        Args:
            ids: Ids of objects, 0 where there is none.
        """
        self.know(np.unique(ids[ids > 0]).tolist())
        for one, other in _touching_pairs(ids):
            self._touching[one].add(other)
            self._touching[other].add(one)
        for one, other in _near_pairs(ids):
            self.add_near(one, other)

    def know(self, identities: Iterable[int]) -> None:
        """Say which objects there are, whether or not they are seen beside others."""
        for identity in identities:
            self._touching.setdefault(identity, set())

    def add_near(self, one: int, other: int) -> None:
        """Say that two objects should rather not look alike."""
        self._near[one][other] += 1
        self._near[other][one] += 1

    def colour_numbers(self) -> dict[int, int]:
        """The number of the colour of each object, in ascending order of ids.

        An object gets, among the colours that no earlier object has that touches it, one that the fewest near ones
        have, of these one that the fewest of all have, and of these the first. A colour beyond the first twelve is
        taken only where all of these are.

        Returns:
            Numbers from 0 on, by id.
        """
        numbers: dict[int, int] = {}
        used: Counter[int] = Counter()
        usual = len(PALETTE) + len(_FURTHER)
        for identity in sorted(self._touching):
            taken = {numbers[other] for other in self._touching[identity] if other in numbers}
            near: Counter[int] = Counter()
            for other, times in self._near[identity].items():
                if other in numbers:
                    near[numbers[other]] += times
            free = [number for number in range(usual) if number not in taken]
            free = free or [next(number for number in range(usual, len(taken) + usual + 1) if number not in taken)]
            numbers[identity] = min(free, key=lambda number: (near[number], used[number], number))
            used[numbers[identity]] += 1
        return numbers


def colour_table(numbers: Mapping[int, int]) -> Integer[np.ndarray, "ids"]:
    """The number of the colour of each id from 0 on; 0 for those that are none.

    Args:
        numbers: By id.

    Returns:
        The numbers, one more than the largest id.
    """
    table = np.zeros(max(numbers, default=0) + 1, dtype=np.int64)
    table[list(numbers)] = list(numbers.values())
    return table


def _touching_pairs(ids: Integer[np.ndarray, "*spatial"]) -> list[tuple[int, int]]:
    """Pairs of objects with voxels side by side or corner to corner."""
    dims, width = ids.ndim, int(ids.max(initial=0)) + 1
    found = [np.zeros(0, dtype=np.int64)]
    # Of two opposite steps one is enough.
    for step in list(product((-1, 0, 1), repeat=dims))[: 3**dims // 2]:
        here = ids[tuple(slice(max(-by, 0), min(-by, 0) or None) for by in step)]
        there = ids[tuple(slice(max(by, 0), min(by, 0) or None) for by in step)]
        differ = (here != there) & (here > 0) & (there > 0)
        found.append(np.unique(here[differ].astype(np.int64) * width + there[differ]))
    keys = np.unique(np.concatenate(found))
    return list(zip((keys // width).tolist(), (keys % width).tolist(), strict=True))


def _near_pairs(ids: Integer[np.ndarray, "*spatial"]) -> list[tuple[int, int]]:
    """Pairs of objects whose bounding boxes are less than a few voxels apart."""
    boxes = {number + 1: box for number, box in enumerate(find_objects(ids)) if box is not None}
    if not boxes:
        return []
    names = np.array(list(boxes))
    ends = np.array([[(side.start, side.stop) for side in box] for box in boxes.values()])
    low, high = ends[..., 0], ends[..., 1] + _NEAR_VOXELS
    pairs = []
    for row in range(len(names) - 1):
        meets = ((low[row] < high[row + 1 :]) & (low[row + 1 :] < high[row])).all(axis=1)
        pairs += [(int(names[row]), other) for other in names[row + 1 :][meets].tolist()]
    return pairs

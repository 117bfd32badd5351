"""The stream of training samples: which case and which random numbers belong to sample number n.

Everything follows from (seed, n): nothing depends on the number of workers, on the process or on what came before, so a
run that is resumed at batch b continues with the very samples that an undisturbed run would have seen.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from medexp.core.hashing import hash_plain


class Order(ABC):
    """Case number of each sample, from the seed and the sample's number alone.

    Attributes:
        seed: Seed of the training stream.
    """

    seed: int

    @abstractmethod
    def case_of(self, sample: int) -> int:
        """Index of the case that sample number `sample` is cut from."""

    def hash(self, n_samples: int) -> str:
        """Hash of the first cases, for the fingerprint."""
        return hash_plain([self.case_of(sample) for sample in range(n_samples)])


class SampleOrder(Order):
    """One permutation of all cases after the other.

    Args:
        n_cases: Number of training cases.
        seed: Seed of the permutations.
        stream: Further numbers that tell permutations of one seed apart.
    """

    def __init__(self, *, n_cases: int, seed: int, stream: tuple[int, ...] = ()) -> None:
        self.n_cases = n_cases
        self.seed = seed
        self.stream = stream
        self._pass = -1
        self._permutation = np.zeros(0, dtype=np.int64)

    def case_of(self, sample: int) -> int:
        """Index of the case that sample number `sample` is cut from."""
        number, place = divmod(sample, self.n_cases)
        if number != self._pass:
            self._permutation = np.random.default_rng((self.seed, *self.stream, number)).permutation(self.n_cases)
            self._pass = number
        return int(self._permutation[place])


class BalancedOrder(Order):
    """Each class as often as any other: one permutation of the classes after the other, and so within each class.

    Of any samples that follow each other two classes differ by at most two draws, and the cases of a class by at most
    two. A case of several classes is drawn for each of them.

    Args:
        classes: The cases of each class, by their index; none is empty.
        seed: Seed of the permutations.
    """

    def __init__(self, *, classes: Sequence[Sequence[int]], seed: int) -> None:
        self.seed = seed
        self.classes = [tuple(cases) for cases in classes]
        # Stream 1 of the seed belongs to what is drawn within a sample.
        self._order = SampleOrder(n_cases=len(self.classes), seed=seed, stream=(2,))
        self._within = [
            SampleOrder(n_cases=len(cases), seed=seed, stream=(3, number)) for number, cases in enumerate(self.classes)
        ]

    def case_of(self, sample: int) -> int:
        """Index of the case that sample number `sample` is cut from."""
        drawn = self._order.case_of(sample)
        before = sample // len(self.classes)
        return self.classes[drawn][self._within[drawn].case_of(before)]


def balanced_order(names: Sequence[Sequence[str]], *, seed: int) -> BalancedOrder:
    """The order in which each class is drawn alike.

    Args:
        names: The classes of each case; there is one at least.
        seed: Seed of the permutations.

    Returns:
        The order.
    """
    cases_of: dict[str, list[int]] = {}
    for case, own in enumerate(names):
        for name in own:
            cases_of.setdefault(name, []).append(case)
    return BalancedOrder(classes=[cases_of[name] for name in sorted(cases_of)], seed=seed)


class StreamBatches(Sampler[list[int]]):
    """Batches of sample numbers of one epoch, starting where training stands.

    Args:
        batch_size: Samples per batch and process.
        batches_per_epoch: Batches of one epoch and process.
        position: Number of batches that were trained so far, asked anew at the start of each iteration.
        rank: Number of this process.
        world_size: Number of processes; together they take consecutive samples.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        batches_per_epoch: int,
        position: Callable[[], int],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.batch_size = batch_size
        self.batches_per_epoch = batches_per_epoch
        self.position = position
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        start = self.position()
        end = (start // self.batches_per_epoch + 1) * self.batches_per_epoch
        for batch in range(start, end):
            first = (batch * self.world_size + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))


def draw_center(
    random: np.random.Generator,
    *,
    shape: tuple[int, ...],
    patch_size: tuple[int, ...],
    foreground: np.ndarray,
    foreground_fraction: float,
) -> tuple[float, ...]:
    """Draw the centre of a patch in voxel coordinates, such that the patch covers the image as far as it can.

    With probability `foreground_fraction` the patch is centred on a voxel of a label drawn uniformly among those
    present; otherwise its place is uniform.

    Args:
        random: Source of randomness.
        shape: Spatial shape of the image.
        patch_size: Spatial shape of the patch.
        foreground: Positions of foreground voxels, rows of (label id, *index).
        foreground_fraction: Probability of a patch centred on foreground.

    Returns:
        Centre in voxels; the centre of the image along axes on which the image is smaller than the patch.
    """
    uniform = random.random(len(shape))
    centred = random.random() < foreground_fraction
    choice = random.random(2)
    low = np.array([(size - 1) / 2 for size in patch_size])
    high = np.array([n - 1 for n in shape]) - low
    center = low + np.floor(uniform * (high - low + 1))
    if centred and len(foreground):
        labels = np.unique(foreground[:, 0])
        rows = foreground[foreground[:, 0] == labels[int(choice[0] * len(labels))]]
        center = rows[int(choice[1] * len(rows)), 1:].astype(float)
    middle = (np.array(shape) - 1) / 2
    clipped = np.where(high >= low, np.clip(center, low, np.maximum(low, high)), middle)
    return tuple(float(value) for value in clipped)

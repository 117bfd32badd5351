"""The stream of training samples: which case and which random numbers belong to sample number n.

Everything follows from (seed, n): nothing depends on the number of workers, on the process or on what came before, so a
run that is resumed at batch b continues with the very samples that an undisturbed run would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

from medexp.core.hashing import hash_plain


class SampleOrder:
    """Case number of each sample: one permutation of all cases after the other.

    Args:
        n_cases: Number of training cases.
        seed: Seed of the permutations.
    """

    def __init__(self, *, n_cases: int, seed: int) -> None:
        self.n_cases = n_cases
        self.seed = seed
        self._pass = -1
        self._permutation = np.zeros(0, dtype=np.int64)

    def case_of(self, sample: int) -> int:
        """Index of the case that sample number `sample` is cut from."""
        number, place = divmod(sample, self.n_cases)
        if number != self._pass:
            self._permutation = np.random.default_rng((self.seed, number)).permutation(self.n_cases)
            self._pass = number
        return int(self._permutation[place])

    def hash(self, n_samples: int) -> str:
        """Hash of the first cases, for the fingerprint."""
        return hash_plain([self.case_of(sample) for sample in range(n_samples)])


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

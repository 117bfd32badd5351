"""Optimisers that take gradients at other weights than those that are judged."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch.optim import Optimizer


class AveragingOptimizer(Optimizer):
    """The weights that are judged are an average, which the optimiser holds; the engine asks for it when it judges.

    Both verbs have to follow bitwise from the optimiser's state: a resumed training starts from it.

    Attributes:
        judging: Whether the parameters are those that are judged now.
    """

    judging: bool = False

    def judge(self) -> None:
        """Let the parameters be those that are judged."""
        self._write_judged()
        self.judging = True

    def go_on(self) -> None:
        """Let the parameters be those at which the next gradient is taken."""
        self._write_trained()
        self.judging = False

    @abstractmethod
    def _write_judged(self) -> None:
        """Write the judged weights into the parameters."""

    @abstractmethod
    def _write_trained(self) -> None:
        """Write the weights of the next gradient into the parameters."""


@contextmanager
def judged_weights(optimizers: Iterable[Optimizer]) -> Iterator[None]:
    """The weights that are judged, for a while."""
    switched = [item for item in optimizers if isinstance(item, AveragingOptimizer) and not item.judging]
    for optimizer in switched:
        optimizer.judge()
    try:
        yield
    finally:
        for optimizer in switched:
            optimizer.go_on()

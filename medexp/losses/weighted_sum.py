"""A weighted sum of losses whose terms stay visible in the history."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from medexp.core.errors import UsageError


class WeightedSum(nn.Module):
    """Several losses of the same logits and target.

    Args:
        terms: The losses by name.
        weights: A weight for each of them.
    """

    def __init__(self, *, terms: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        if set(terms) != set(weights):
            raise UsageError(f"loss.weights needs one weight for each of {sorted(terms)}, got {sorted(weights)}")
        if any(weight < 0 for weight in weights.values()) or not any(weights.values()):
            raise UsageError(f"loss.weights needs weights >= 0, one of them above 0, got {dict(weights)}")
        nested = [name for name, loss in terms.items() if isinstance(loss, WeightedSum)]
        if nested:
            raise UsageError(f"loss.terms.{nested[0]} is a weighted sum itself; list its terms in loss.terms instead")
        self.terms = nn.ModuleDict(terms)
        self.weights = dict(weights)

    def forward(
        self, logits: Float[Tensor, "batch channels *spatial"], target: Shaped[Tensor, "batch target_channels *spatial"]
    ) -> dict[str, Tensor]:
        """The weighted terms by name; their sum is the loss."""
        return self.each(lambda loss: loss(logits, target))

    def each(self, value_of: Callable[[nn.Module], Tensor]) -> dict[str, Tensor]:
        """The weighted terms by name, each evaluated by `value_of`."""
        return {name: self.weights[name] * value_of(loss) for name, loss in self.terms.items()}

"""A weighted sum of losses whose terms stay visible in the history."""

from __future__ import annotations

from collections.abc import Mapping

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
        if any(weight < 0 for weight in weights.values()):
            raise UsageError(f"loss.weights needs weights >= 0, got {dict(weights)}")
        self.terms = nn.ModuleDict(terms)
        self.weights = dict(weights)

    def forward(
        self, logits: Float[Tensor, "batch channels *spatial"], target: Shaped[Tensor, "batch target_channels *spatial"]
    ) -> dict[str, Tensor]:
        """The weighted terms by name; their sum is the loss."""
        return {name: self.weights[name] * loss(logits, target) for name, loss in self.terms.items()}

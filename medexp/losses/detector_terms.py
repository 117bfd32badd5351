"""The loss terms that a detector computes itself, weighted."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from medexp.core.errors import UsageError


class DetectorTerms(nn.Module):
    """A weight for each of the terms that a detector computes inside its forward.

    Args:
        weights: Weight of each term by the name that the detector gives it.
    """

    def __init__(self, *, weights: Mapping[str, float]) -> None:
        super().__init__()
        if any(weight < 0 for weight in weights.values()) or not any(weights.values()):
            raise UsageError(f"loss.weights needs weights >= 0, one of them above 0, got {dict(weights)}")
        self.weights = dict(weights)

    def forward(self, terms: Mapping[str, Tensor] | Tensor, target: object = None) -> dict[str, Tensor]:
        """The weighted terms.

        Args:
            terms: What the detector computed.
            target: Nothing; the detector has seen what it should find.

        Returns:
            The terms by name; their sum is the loss.

        Raises:
            UsageError: A term has no weight, or a weight no term, or the task computes no terms.
        """
        if not isinstance(terms, Mapping):
            raise UsageError(
                "loss=detector_terms weighs what a detector computes itself, and this task compares maps; choose "
                "another loss, or task=instance/detect"
            )
        if terms.keys() != self.weights.keys():
            raise UsageError(
                f"loss.weights needs a weight for each term of the detector, {sorted(terms)}, "
                f"got {sorted(self.weights)}; choose loss=detector_terms for model=mask_rcnn, "
                "loss=one_stage_terms for model=mask_retinanet"
            )
        return {name: self.weights[name] * term for name, term in terms.items()}

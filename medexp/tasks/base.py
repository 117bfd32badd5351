"""What every kind of task is to the one LightningModule."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from medexp.core.types import Annotation, Batch, Kind, Prediction, StructureClass


class Task(nn.Module, ABC):
    """A kind of task, in few verbs, so that nothing else branches on it.

    Attributes:
        heads: Names and channels of the maps that a model must return.
        classes: The classes of masks without background, of objects, or of images.
        gives: What `decode` puts into a prediction.
        judged: What a prediction must hold after post-processing.
        usual_metrics: Metrics that measure this, for messages.
        dense: The maps must have the size of the image.
    """

    heads: dict[str, int]
    classes: tuple[StructureClass, ...]
    gives: Kind
    judged: Kind
    usual_metrics: tuple[str, ...]
    dense: bool = True

    @abstractmethod
    def sample_targets(self, reference: Annotation) -> dict[str, Any]:
        """What the loss sees of one sample, on the network's grid; runs in the loader's workers."""

    def forward(self, model: nn.Module, images: Tensor, targets: dict[str, Any] | None = None) -> dict[str, Any]:
        """Outputs of the model; only detectors that compute their losses inside see the targets."""
        outputs: dict[str, Any] = model(images)
        return outputs

    @abstractmethod
    def loss(self, outputs: dict[str, Any], targets: dict[str, Any]) -> dict[str, Tensor]:
        """Weighted terms by name; their sum is the loss."""

    @abstractmethod
    def decode(self, outputs: dict[str, Any], batch: Batch) -> list[Prediction]:
        """Soft predictions on each image's own grid."""

    @abstractmethod
    def reference(self, batch: Batch) -> list[Prediction]:
        """The annotations in the form of predictions, on each image's own grid, for the metrics."""

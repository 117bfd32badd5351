"""Classification: an image gets one of several labels, or any number of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Annotation, Batch, Image, Kind, Prediction, StructureClass
from medexp.tasks._known import annotated, prediction_of
from medexp.tasks.base import Task

HEAD = "label"


class Classification(Task):
    """One label for the whole image by softmax, or several at once by sigmoid.

    Args:
        labels: Name of each label id of the dataset; all are classes, 0 included, unless there may be several.
        loss: A loss that takes its values as a list in any order: cross-entropy or focal, of several labels also
            binary cross-entropy or the asymmetric one, or a weighted sum of such.
        multi_label: An image may have several labels, or none; label id 0 is then "none of them" and no class.
        sigmoid: As `multi_label`; the losses read it.
    """

    gives = Kind.SCORES
    judged = Kind.SCORES
    usual_metrics = ("auroc", "accuracy")
    dense = False

    def __init__(self, *, labels: Mapping[int, str], loss: nn.Module, multi_label: bool, sigmoid: bool) -> None:
        super().__init__()
        if sigmoid != multi_label:
            raise UsageError("task.sigmoid follows from task.multi_label; leave it as it is")
        _check_loss(loss)
        self.loss_function = loss
        self.multi_label = multi_label
        self.ids = sorted(label for label in labels if label != 0 or not multi_label)
        if len(self.ids) < (1 if multi_label else 2):
            raise UsageError(f"the dataset declares the labels {dict(labels)}; there is nothing to tell apart")
        self.classes = tuple(StructureClass(labels[label], 0, value) for value, label in enumerate(self.ids))
        self.heads = {HEAD: len(self.classes)}

    def sample_targets(self, reference: Annotation) -> dict[str, Tensor]:
        """Class index of shape (1,), or 0 and 1 for each class, (classes,)."""
        known = self._known(reference)
        values = known.tolist() if self.multi_label else [int(known.argmax())]
        return {HEAD: torch.tensor(values, dtype=torch.int64)}

    def loss(self, outputs: dict[str, Any], targets: dict[str, Any]) -> dict[str, Tensor]:
        """The terms of the configured loss, which sees the images of the batch as it sees voxels."""
        logits, target = _logits(outputs).T[None], targets[HEAD].T[None]
        value = self.loss_function(logits, target)
        return dict(value) if isinstance(value, Mapping) else {"loss": value}

    def decode(self, outputs: dict[str, Any], batch: Batch) -> list[Prediction]:
        """Probability of each class."""
        logits = _logits(outputs).float()
        scores = logits.sigmoid() if self.multi_label else logits.softmax(dim=1)
        return [
            self._prediction(image, own.cpu().numpy().astype(np.float64))
            for own, image in zip(scores, batch.images_read, strict=True)
        ]

    def reference(self, batch: Batch) -> list[Prediction]:
        """1 for the classes of each image, 0 for the others."""
        return [
            self._prediction(image, self._known(annotation).astype(np.float64))
            for image, annotation in annotated(batch)
        ]

    def _known(self, annotation: Annotation) -> np.ndarray:
        """Whether each class holds for an image."""
        if annotation.image_labels is None:
            raise DataError("classification needs labels of images, and the dataset gives none; choose another dataset")
        known = np.isin(self.ids, annotation.image_labels)
        unknown = sorted(set(annotation.image_labels) - {0, *self.ids})
        if unknown or (not self.multi_label and known.sum() != 1):
            raise DataError(
                f"an image has the labels {list(annotation.image_labels)}, and "
                f"{'any number' if self.multi_label else 'exactly one'} of {self.ids} may hold; "
                "correct the labels, or choose task.multi_label"
            )
        return known

    def _prediction(self, image: Image, scores: np.ndarray) -> Prediction:
        return prediction_of(image, self.classes, exclusive=not self.multi_label, scores=scores)


def _logits(outputs: dict[str, Any]) -> Float[Tensor, "batch classes"]:
    """A value for each class of each image; UsageError where the network gives maps."""
    logits: Tensor = outputs[HEAD]
    if logits.ndim != 2:
        raise UsageError(
            f"classification needs one value per class and image, and the network gives maps of {tuple(logits.shape)}; "
            "choose model=densenet"
        )
    return logits


def _check_loss(loss: nn.Module) -> None:
    terms = getattr(loss, "terms", None)
    for name, term in terms.items() if isinstance(terms, nn.ModuleDict) else [("loss", loss)]:
        if not getattr(term, "pools_batch", False):
            raise UsageError(
                f"{name} ({type(term).__name__}) compares the voxels of an image, and classification has one value per "
                "image; choose loss=cross_entropy or loss=focal (of several labels also loss=bce or loss=asymmetric)"
            )

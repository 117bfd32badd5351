"""The cases of a dataset and the training patches that are cut from them, ready to be drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
from omegaconf import DictConfig

from medexp.core.errors import DataError, UsageError, did_you_mean
from medexp.core.geometry import Geometry
from medexp.core.instantiate import trust_folders
from medexp.core.types import Annotation, Case, Image, Prediction, StructureClass
from medexp.data.configured import source_of
from medexp.data.plan.configured import planned_keys
from medexp.engine.build import image_data


class DatasetCases:
    """Reads any case of a configured dataset.

    Args:
        config: A finished configuration.
    """

    def __init__(self, config: DictConfig) -> None:
        trust_folders(config.paths.modules)
        self.config = config
        self.source, self.derive = source_of(config)
        self._cases = {case.case_id: case for case in self.source.cases()}

    @property
    def case_ids(self) -> list[str]:
        """All ids, in the dataset's order."""
        return list(self._cases)

    def read(self, case_id: str) -> tuple[Image, Prediction]:
        """A case with its annotation in the form of a prediction.

        Args:
            case_id: Its id.

        Returns:
            The image, and its annotation.

        Raises:
            UsageError: The dataset has no such case.
            DataError: It cannot be read, or nobody annotated it.
        """
        image = self.image(case_id)
        return image, annotation_shown(image, self.source.labels)

    def image(self, case_id: str) -> Image:
        """A case as its source reads it, whether or not it is annotated.

        Args:
            case_id: Its id.

        Returns:
            The image.

        Raises:
            UsageError: The dataset has no such case.
            DataError: It cannot be read.
        """
        return self.source.read(self._case(case_id))

    def patches(self, case_id: str, number: int) -> Iterator[tuple[Image, Prediction, dict[str, Any]]]:
        """The first training patches of a case as training sees them, in the order in which it does.

        Args:
            case_id: Its id.
            number: How many.

        Yields:
            The patch with the number of the sample in its id, its annotation, and what it was made from.

        Raises:
            UsageError: There is no such case, it is none that is trained on, or the patch is not known yet.
        """
        case = self._case(case_id)
        planned = planned_keys(self.config)
        if planned:
            raise UsageError(f"patches need a value for {', '.join(planned)}, got auto; medexp data plan proposes some")
        data = image_data(self.config, self.source, self.derive, sample_targets=lambda known: {"annotation": known})
        samples, training = data.samples, [one.case_id for one in data.parts.train]
        if case_id not in training:
            raise UsageError(
                f"case {case_id} is not trained on in fold {self.config.fold}, so no patch is cut from it; choose one "
                f"of the {len(training)} that are, e.g. {training[0]}, or another fold"
            )
        of_case = (n for n in count() if samples.cases[samples.order.case_of(n)].case_id == case_id)
        unit = self.source.read(case).geometry.unit
        spacing_mm = samples.prepared.load(case)[0].spacing_mm
        for _, n in zip(range(number), of_case, strict=False):
            _, pixels, targets = samples[n]
            patch = Image(
                case=replace(case, case_id=f"{case_id}_sample{n}"),
                pixels=pixels.numpy(),
                annotation=targets["annotation"],
                geometry=Geometry.from_spacing(tuple(pixels.shape[1:]), spacing_mm, unit=unit),
            )
            yield patch, annotation_shown(patch, self.source.labels), samples.parameters_of(n)

    def _case(self, case_id: str) -> Case:
        if case_id not in self._cases:
            raise UsageError(
                f"dataset {self.source.name} has no case {case_id}{did_you_mean(case_id, self._cases)} "
                f"({len(self._cases)} cases, e.g. {next(iter(self._cases), 'none')})"
            )
        return self._cases[case_id]


def annotation_shown(image: Image, labels: Mapping[int, str]) -> Prediction:
    """All that is known of an image in the form of a prediction, whatever the task.

    Args:
        image: The image.
        labels: Name of each label id of the dataset.

    Returns:
        Mask, instances, objects and labels of the image, with the label ids as values.

    Raises:
        DataError: Nobody annotated it.
    """
    known = image.annotation or Annotation()
    if all(part is None for part in (known.mask, known.objects, known.image_labels)):
        raise DataError(f"case {image.case.case_id} has no annotation to draw")
    of_image = known.image_labels
    ids = [label for label in sorted(labels) if label != 0 or of_image is not None]
    return Prediction(
        case_id=image.case.case_id,
        group=image.case.group,
        geometry=image.geometry,
        classes=tuple(StructureClass(labels[label], 0, label) for label in ids),
        mask=None if known.mask is None else known.mask[None],
        instances=known.instances,
        objects=known.objects,
        scores=None if of_image is None else np.array([float(label in of_image) for label in ids]),
    )

"""A conditional random field: probabilities that agree with the image and with each other."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
from jaxtyping import Float

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Kind, Prediction
from medexp.post_processing._knobs import check_count, check_positive, check_volume
from medexp.post_processing._masks import pixels_of, probabilities_of

_LEAST_PROBABILITY = 1e-6


class Crf:
    """Mean-field inference in a fully connected conditional random field with Gaussian edges, for exclusive classes.

    Two voxels of different classes cost more the nearer they lie, and the nearer and the more alike in the image. Each
    channel of the image is divided by its standard deviation.

    Source: P. Kraehenbuehl and V. Koltun, Efficient inference in fully connected CRFs with Gaussian edge potentials,
    NeurIPS (2011); the library is pydensecrf2.

    Args:
        smoothness_mm: Standard deviation of the distance in which the image does not count, in mm.
        smoothness_weight: Weight of that term; 0 leaves it out.
        appearance_mm: Standard deviation of the distance in which the image counts, in mm.
        appearance_contrast: Standard deviation of the difference of intensities, in standard deviations of the image.
        appearance_weight: Weight of that term; 0 leaves it out.
        iterations: Mean-field updates.

    Raises:
        UsageError: A knob has a value that has no meaning, or pydensecrf2 is not installed.
    """

    takes = Kind.PROBABILITIES
    gives = Kind.PROBABILITIES

    def __init__(
        self,
        *,
        smoothness_mm: float = 3.0,
        smoothness_weight: float = 3.0,
        appearance_mm: float = 10.0,
        appearance_contrast: float = 0.2,
        appearance_weight: float = 5.0,
        iterations: int = 5,
    ) -> None:
        self.smoothness_mm = check_positive(smoothness_mm, "crf.smoothness_mm")
        self.smoothness_weight = check_volume(smoothness_weight, "crf.smoothness_weight")
        self.appearance_mm = check_positive(appearance_mm, "crf.appearance_mm")
        self.appearance_contrast = check_positive(appearance_contrast, "crf.appearance_contrast")
        self.appearance_weight = check_volume(appearance_weight, "crf.appearance_weight")
        self.iterations = check_count(iterations, "crf.iterations")
        self._library = _library()

    def __call__(self, prediction: Prediction) -> Prediction:
        """Infer the probabilities.

        Args:
            prediction: Exclusive classes with probabilities, and the pixels of the image.

        Returns:
            The prediction with other probabilities of the same shape and type.

        Raises:
            UsageError: The classes overlap, or there are no probabilities.
            DataError: The image is not at hand, or the probabilities do not fit the classes or hold nan.
        """
        if not prediction.exclusive:
            raise UsageError(
                f"crf in case {prediction.case_id} needs exclusive classes, and the task's regions overlap"
            )
        soft = probabilities_of(prediction, 1 + len(prediction.classes), "crf")
        pixels = pixels_of(prediction, "crf")
        if pixels.shape[1:] != soft.shape[1:]:
            raise DataError(f"crf in case {prediction.case_id}: image {pixels.shape[1:]}, prediction {soft.shape[1:]}")
        places_mm = _places_mm(soft.shape[1:], prediction.geometry.spacing_mm)
        field = self._library.DenseCRF(places_mm.shape[1], len(soft))
        unary = -np.log(np.clip(soft.reshape(len(soft), -1), _LEAST_PROBABILITY, 1))
        field.setUnaryEnergy(np.ascontiguousarray(unary, dtype=np.float32))
        if self.smoothness_weight:
            field.addPairwiseEnergy(_features(places_mm / self.smoothness_mm), compat=self.smoothness_weight)
        if self.appearance_weight:
            looks = _standardised(pixels) / self.appearance_contrast
            features = _features(np.concatenate([places_mm / self.appearance_mm, looks]))
            field.addPairwiseEnergy(features, compat=self.appearance_weight)
        inferred = np.array(field.inference(self.iterations), dtype=soft.dtype).reshape(soft.shape)
        return replace(prediction, probabilities=inferred)


def _library() -> ModuleType:
    try:
        from pydensecrf import densecrf
    except ImportError:
        raise UsageError(
            'post-processing step crf needs pydensecrf2, which is not installed; run: pip install "medexp[crf]" '
            "(it compiles C++)"
        ) from None
    library: ModuleType = densecrf
    return library


def _places_mm(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> Float[np.ndarray, "axes voxels"]:
    axes = [spacing * np.arange(size) for size, spacing in zip(shape, spacing_mm, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij")).reshape(len(shape), -1)


def _standardised(pixels: Float[np.ndarray, "channels *spatial"]) -> Float[np.ndarray, "channels voxels"]:
    flat = pixels.reshape(len(pixels), -1)
    deviation = flat.std(axis=1, keepdims=True)
    return flat / np.where(deviation > 0, deviation, 1)


def _features(values: Float[np.ndarray, "features voxels"]) -> Float[np.ndarray, "features voxels"]:
    return np.ascontiguousarray(values, dtype=np.float32)

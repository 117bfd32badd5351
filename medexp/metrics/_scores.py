"""What metrics of scores of whole images have in common."""

from __future__ import annotations

from jaxtyping import Float
from numpy import ndarray

from medexp.core.errors import DataError
from medexp.core.types import Prediction


def scores_of(
    prediction: Prediction, reference: Prediction
) -> tuple[Float[ndarray, "classes"], Float[ndarray, "classes"]]:
    """The scores of both, checked to be of one case and of the same classes.

    Args:
        prediction: What is measured.
        reference: What is true, 1 or 0 for each class.

    Returns:
        Scores of the prediction and of the reference.

    Raises:
        DataError: They are of different cases or classes, or have no scores.
    """
    where = f"case {reference.case_id}"
    if prediction.case_id != reference.case_id or prediction.classes != reference.classes:
        raise DataError(f"{where} was given a prediction of another case or of other classes; decode both by one task")
    if prediction.scores is None or reference.scores is None:
        raise DataError(f"{where} has no scores of the whole image; choose metrics that fit the task")
    return prediction.scores, reference.scores

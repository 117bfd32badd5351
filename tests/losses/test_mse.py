from __future__ import annotations

import numpy as np
import pytest
import torch

from medexp.core.errors import UsageError
from medexp.losses.mse import MeanSquaredError


@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 2, 4, 6), (2, 1, 3, 4, 5)])
def test_it_is_the_mean_of_the_squares(shape):
    said, wanted = torch.randn(shape), torch.randn(shape)
    expected = np.mean((said.double().numpy() - wanted.double().numpy()) ** 2)
    assert MeanSquaredError()(said, wanted).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("target", [torch.zeros(2, 1, 4, 4), torch.zeros(2, 3, 4, 4, dtype=torch.int64)])
def test_classes_are_refused(target):
    with pytest.raises(UsageError, match="this task has classes; choose loss=cross_entropy"):
        MeanSquaredError()(torch.zeros(2, 3, 4, 4), target)

from __future__ import annotations

import pytest
import torch

from medexp.core.errors import UsageError
from medexp.inferers.whole import Whole


def test_maps_come_back_on_the_image_s_grid_and_other_outputs_as_they_are():
    images = torch.randn(1, 2, 7, 9, generator=torch.Generator().manual_seed(0))
    seen = []

    def predict(padded):
        seen.append(tuple(padded.shape[2:]))
        return {"map": padded * 2, "label": padded.mean(dim=(2, 3)), "objects": ["found"]}

    outputs = Whole(divisible_by=4)(images, predict)
    assert seen == [(8, 12)]
    assert torch.equal(outputs["map"], images * 2)
    assert outputs["label"].shape == (1, 2)
    assert outputs["objects"] == ["found"]


def test_the_padding_is_zero_and_at_the_upper_ends():
    padded = Whole(divisible_by=4)(torch.ones(1, 1, 3, 4, 5), lambda image: {"label": image.sum(dim=(2, 3, 4))})
    assert padded["label"].item() == 3 * 4 * 5
    outputs = Whole(divisible_by=1)(torch.ones(1, 1, 3, 5), lambda image: {"shape": tuple(image.shape)})
    assert outputs["shape"] == (1, 1, 3, 5)


def test_a_multiple_below_one_is_refused():
    with pytest.raises(UsageError, match="divisible_by needs a value >= 1, got 0"):
        Whole(divisible_by=0)

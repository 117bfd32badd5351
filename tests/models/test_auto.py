from __future__ import annotations

import functools

import pytest
import torch

from medexp.core.errors import UsageError
from medexp.models.adapter import build_model
from medexp.models.auto import planned
from medexp.models.dynunet import dynunet

KNOBS = {
    "filters": [4, 8, 8],
    "strides": [[1, 1], [2, 2], [2, 1]],
    "kernel_size": [[3, 3], [3, 3], [3, 1]],
    "norm": "instance",
    "residual": False,
    "dropout": None,
    "deep_supervision_levels": 1,
}


def built(factory, **knobs) -> torch.nn.Module:
    torch.manual_seed(0)
    partial = functools.partial(factory, **(KNOBS | knobs))
    return build_model(partial, spatial_dims=2, in_channels=1, heads={"semantic": 2}, image_size=(16, 16))


def test_a_planned_network_is_the_dynunet_of_its_levels() -> None:
    images = torch.randn(1, 1, 16, 16)
    auto, reference = built(planned, plan={"memory_gb": 8.0}), built(dynunet)
    assert torch.equal(auto(images)["semantic"], reference(images)["semantic"])


@pytest.mark.parametrize("knob", ["filters", "strides", "kernel_size", "deep_supervision_levels"])
def test_a_network_that_is_not_planned_yet_is_refused(knob: str) -> None:
    with pytest.raises(UsageError, match="model=auto is sized by the plan of the dataset, which training makes"):
        built(planned, plan={"memory_gb": 8.0}, **{knob: None})

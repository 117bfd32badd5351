"""What all of medexp's own networks promise: the contract, knobs that act, a form that plans and exports read."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from torch import nn

from medexp.core.errors import UsageError
from medexp.data.integrity import model_strides
from medexp.models.adapter import DEEP_SUPERVISION, build_model, fit_size

torch.set_num_threads(1)
CONF = Path(__file__).parents[2] / "conf" / "model"
HEADS = {"semantic": 2, "distance": 1}
NAMES = ["cnn_unet", "convrnn_unet", "r2unet", "bcdunet"]
CASES = [(name, dims) for name in NAMES for dims in (2, 3) if (name, dims) != ("convrnn_unet", 2)]
EACH = pytest.mark.parametrize(("name", "dims"), CASES)
TINY = {"filters": [4, 6, 8], "strides": [1, 2, 2], "kernel_size": [3, 3, 3]}


def option(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / f"{name}.yaml").read_text())


def built(name: str, dims: int, *, seed: int = 0, **knobs) -> nn.Module:
    given = option(name) | TINY | knobs
    module, _, function = given.pop("_target_").rpartition(".")
    given.pop("_partial_")
    factory = functools.partial(getattr(importlib.import_module(module), function), **given)
    torch.manual_seed(seed)
    return build_model(factory, spatial_dims=dims, in_channels=2, heads=HEADS, image_size=(8,) * dims)


def images(dims: int, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 2, *(8, 12, 4)[:dims], generator=torch.Generator().manual_seed(1))


def weights(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


@EACH
def test_it_keeps_the_contract_of_dense_models(name: str, dims: int) -> None:
    model = built(name, dims, deep_supervision_levels=1)
    outputs = model.train()(images(dims, batch=2))
    (coarser,) = outputs.pop(DEEP_SUPERVISION)
    assert {head: maps.shape[1] for head, maps in outputs.items()} == HEADS
    assert outputs["semantic"].shape[2:] == images(dims).shape[2:]
    assert tuple(coarser["distance"].shape[2:]) == ((4, 6, 4) if name == "convrnn_unet" else (4, 6, 2)[:dims])
    sum(maps.square().mean() for maps in [*outputs.values(), *coarser.values()]).backward()
    assert all(weight.grad is not None and bool(weight.grad.isfinite().all()) for weight in model.parameters())
    assert list(model.eval()(images(dims))) == list(HEADS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "knobs",
    [
        {"filters": [4, 6, 10]},
        {"strides": [1, 2, 1]},
        {"kernel_size": [3, 3, 1]},
        {"kernel_shape": "cross"},
        {"kernel_shape": [[0, 0, 0], [1, 1, 1], [0, 0, 0]]},
        {"convs_per_level": [2, 2, 3]},
        {"depth": 2},
        {"width": 2.0},
        {"pooling": "average"},
        {"pooling": "strided"},
        {"norm": "none"},
        {"norm": "group", "filters": [8, 8, 8]},
        {"activation": "gelu"},
        {"dropout": 0.5},
        {"deep_supervision_levels": 1},
    ],
    ids=lambda knobs: ",".join(f"{key}={value}" for key, value in knobs.items()),
)
def test_each_knob_changes_what_the_network_gives(name: str, knobs: dict[str, Any]) -> None:
    dims = 3 if name == "convrnn_unet" else 2
    usual, other = built(name, dims), built(name, dims, **knobs)
    torch.manual_seed(0)
    before = usual.train()(images(dims, batch=2))
    torch.manual_seed(0)
    after = other.train()(images(dims, batch=2))
    assert list(before) != list(after) or not torch.equal(before["semantic"], after["semantic"])


@pytest.mark.parametrize("name", NAMES)
def test_width_and_depth_are_the_lists_that_they_stand_for(name: str) -> None:
    dims = 3 if name == "convrnn_unet" else 2
    short = built(name, dims, depth=2, width=1.5)
    written = built(name, dims, filters=[6, 9], strides=[1, 2], kernel_size=[3, 3])
    assert short.state_dict().keys() == written.state_dict().keys()
    assert all(torch.equal(value, written.state_dict()[key]) for key, value in short.state_dict().items())


@pytest.mark.parametrize("name", ["cnn_unet", "convrnn_unet"])
@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"filters": [4, 8]}, "model.filters, model.strides and model.kernel_size need one value per level"),
        ({"filters": [4, 0, 8]}, "model.filters needs whole numbers from 1 on"),
        ({"strides": [2, 2, 2]}, "model.strides needs 1 at the first level"),
        ({"strides": [1, 2, [2, 2, 2, 2]]}, "model.strides needs one number"),
        ({"kernel_size": [3, 4, 3]}, "model.kernel_size needs odd numbers"),
        ({"kernel_shape": "circle"}, "model.kernel_shape is one of"),
        ({"convs_per_level": [2, 2]}, "model.convs_per_level needs one value or 3"),
        ({"depth": 4}, "model.depth needs null or 2..3"),
        ({"width": 0}, "model.width needs a factor above 0"),
        ({"pooling": "mean"}, "model.pooling is max or average or strided, got mean"),
        ({"norm": "instnace"}, "did you mean instance"),
        ({"norm": "group"}, "model.norm=group needs channels divisible by 8"),
        ({"activation": "rleu"}, "did you mean relu"),
        ({"dropout": 1.0}, "model.dropout needs null or a probability"),
        ({"deep_supervision_levels": 2}, "model.deep_supervision_levels needs 0..1 with 3 levels, got 2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_knob_out_of_range_is_refused_by_name(name: str, knobs: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as error:
        built(name, 3 if name == "convrnn_unet" else 2, **knobs)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("name", "knobs", "told"),
    [
        ("r2unet", {"recurrence_steps": 0}, "model.recurrence_steps needs 1"),
        ("bcdunet", {"dense_blocks": 0}, "model.dense_blocks needs 1"),
        ("bcdunet", {"recurrent_kernel_size": 2}, "model.recurrent_kernel_size needs an odd number"),
    ],
)
def test_a_knob_of_one_network_out_of_range_is_refused_by_name(name: str, knobs: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as error:
        built(name, 2, **knobs)
    assert told in str(error.value)


@EACH
def test_windows_and_kernels_may_differ_between_axes_and_the_strides_tell_which_patch_fits(
    name: str, dims: int
) -> None:
    strides = [1, [2, 1, 1][:dims], [2, 3, 1][:dims]]
    model = built(name, dims, strides=strides, kernel_size=[3, [1, 3, 1][:dims], [3, 3, 1][:dims]])
    whole = model_strides({"strides": strides}, dims)
    assert whole == (4, 3, 1)[:dims]
    fit_size(model, torch.randn(1, 2, *[2 * n for n in whole]), dense=True)
    with pytest.raises(UsageError, match=r"a patch of \(.*\) does not pass|model gives"):
        fit_size(model, torch.randn(1, 2, *[2 * n + (n > 1) for n in whole]), dense=True)


def test_depth_and_sequence_axis_count_in_what_a_patch_needs() -> None:
    assert model_strides({"strides": [1, 2, 2], "depth": 2}, 2) == (2, 2)
    assert model_strides({"strides": [1, 2, 2], "sequence_axis": 0}, 3) == (1, 4, 4)
    assert model_strides({"strides": [1, [1, 2, 2]], "sequence_axis": 0}, 3) == (1, 2, 2)
    assert model_strides({"depth": 2}, 2) is None


@pytest.mark.parametrize("dims", [2, 3])
def test_what_a_plan_says_of_a_model_can_be_said_of_the_u_net(dims: int) -> None:
    planned = {"filters", "strides", "kernel_size", "deep_supervision_levels"}
    assert planned <= option("cnn_unet").keys() & option("dynunet").keys()
    levels = {
        "filters": [4, 8, 8],
        "strides": [[1] * dims, [1, 2, 2][-dims:], [2] * dims],
        "kernel_size": [[1, 3, 3][-dims:], [3] * dims, [3] * dims],
        "deep_supervision_levels": 1,
    }
    maps = [built(name, dims, **levels).eval()(images(dims))["semantic"] for name in ("dynunet", "cnn_unet")]
    assert maps[0].shape == maps[1].shape


def test_a_kernel_shape_of_two_levels_with_other_boxes_is_refused_where_it_is_listed() -> None:
    cross = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    with pytest.raises(UsageError, match=r"lists \(3, 3\) voxels and model.kernel_size has a box of \(5, 5\)"):
        built("cnn_unet", 2, kernel_shape=cross, kernel_size=[3, 5, 5])
    named, listed = (built("cnn_unet", 2, kernel_shape=shape) for shape in ("cross", cross))
    assert torch.equal(named(images(2))["semantic"], listed(images(2))["semantic"])


class _Map(nn.Module):
    """The first head of a model, as an exporter takes it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.model(batch)["semantic"]


# torch.onnx warns of its own older exporter, and of InstanceNorm, which measures each image in evaluation too.
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore:ONNX export mode is set"
)
@pytest.mark.parametrize(("name", "dims"), [("cnn_unet", 3), ("convrnn_unet", 3), ("r2unet", 2), ("bcdunet", 2)])
def test_it_exports_with_equal_outputs(name: str, dims: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Sizes are no numbers while a model is traced, and the checks of shapes that run in tests would refuse them.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    model, file = _Map(built(name, dims, kernel_shape="cross")).eval(), tmp_path / "model.onnx"
    one, two = images(dims), images(dims, batch=2)
    torch.testing.assert_close(torch.export.export(model, (one,)).module()(one), model(one))
    # The exporter over torch.export needs onnxscript, which is no dependency.
    torch.onnx.export(model, (one,), file, input_names=["images"], dynamic_axes={"images": {0: "batch"}}, dynamo=False)
    (found,) = onnxruntime.InferenceSession(file).run(None, {"images": two.numpy()})
    np.testing.assert_allclose(found, model(two).detach().numpy(), rtol=1e-3, atol=1e-5)

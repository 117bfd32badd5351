"""Which parameters decay, and how learning rates fall from layer to layer."""

from typing import Any

import pytest
import torch
from monai.networks.nets import DynUNet, UNet
from torch import nn
from torch.optim import SGD, AdamW

from medexp.core.errors import UsageError
from medexp.engine.optimizers.groups import ParameterGroups

ALIKE: dict[str, Any] = {"decay_norm_and_bias": True, "no_decay": [], "layer_decay": 1.0, "layers": []}
DIMS = pytest.mark.parametrize("dims", [2, 3])


def unet(dims: int) -> nn.Module:
    return UNet(dims, 1, 2, channels=(4, 8), strides=(2,), norm=("instance", {"affine": True}))


def dynunet(dims: int) -> nn.Module:
    return DynUNet(
        dims, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 16], norm_name=("instance", {"affine": True})
    )


def names_of(groups: ParameterGroups, model: nn.Module, *, decays: bool) -> set[str]:
    return {name for group in groups.groups(model) if group["decays"] is decays for name in group["names"]}


@DIMS
@pytest.mark.parametrize("make", [unet, dynunet])
def test_without_decay_of_norms_and_biases_the_kernels_of_convolutions_decay_and_nothing_else(
    make: Any, dims: int
) -> None:
    model = make(dims)
    convolutions = tuple(getattr(nn, f"{kind}{dims}d") for kind in ("Conv", "ConvTranspose"))
    kernels = {
        id(module.weight): f"{prefix}.weight"
        for prefix, module in reversed(list(model.named_modules()))
        if isinstance(module, convolutions)
    }
    own = {name for name, parameter in model.named_parameters() if id(parameter) in kernels}
    every = {name for name, _ in model.named_parameters()}
    groups = ParameterGroups(**ALIKE | {"decay_norm_and_bias": False})
    assert len(own) == len(kernels)
    assert names_of(groups, model, decays=True) == own
    assert names_of(groups, model, decays=False) == every - own != set()
    assert names_of(ParameterGroups(**ALIKE), model, decays=True) == every


class Tokens(nn.Module):
    """What a transformer holds beside its linear layers, under the names that MONAI and torchvision give it."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 9, 4))
        self.relative_position_bias_table = nn.Parameter(torch.zeros(9, 2))
        self.words = nn.Embedding(3, 4)
        self.attention = nn.MultiheadAttention(4, 2)


def test_embeddings_position_tables_and_class_tokens_do_not_decay_either() -> None:
    groups = ParameterGroups(**ALIKE | {"decay_norm_and_bias": False})
    assert names_of(groups, Tokens(), decays=True) == {"attention.in_proj_weight", "attention.out_proj.weight"}


def test_only_the_decaying_group_shrinks() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    groups = ParameterGroups(**ALIKE | {"decay_norm_and_bias": False})
    optimizer = groups.optimizer(lambda given: AdamW(given, lr=0.1, weight_decay=0.5), model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = dict(model.named_parameters())
    torch.testing.assert_close(after["0.weight"].detach(), 0.95 * before["0.weight"])
    assert all(torch.equal(after[name], before[name]) for name in ("0.bias", "1.weight", "1.bias"))


def test_patterns_spare_further_parameters() -> None:
    groups = ParameterGroups(**ALIKE | {"no_decay": ["1.*"]})
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert names_of(groups, model, decays=False) == {"1.weight", "1.bias"}


@DIMS
@pytest.mark.parametrize("make", [unet, dynunet])
def test_learning_rates_fall_by_the_factor_from_each_kernel_to_the_one_before(make: Any, dims: int) -> None:
    model = make(dims)
    groups = ParameterGroups(**ALIKE | {"layer_decay": 0.5})
    optimizer = groups.optimizer(lambda given: SGD(given, lr=0.8), model)
    kernels = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    rate = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert [rate[id(kernel)] for kernel in kernels] == [0.8 * 0.5**depth for depth in reversed(range(len(kernels)))]
    assert optimizer.param_groups[0]["lr"] == 0.8
    assert len(rate) == len(list(model.parameters()))


def test_patterns_are_layers_from_input_to_output_and_frozen_ones_count() -> None:
    model = nn.ModuleDict({"head": nn.Linear(2, 2), "stem": nn.Linear(2, 2), "body": nn.Linear(2, 2)})
    model["body"].requires_grad_(False)
    groups = ParameterGroups(**ALIKE | {"layer_decay": 0.5, "layers": ["stem.*", "body.*", "*"]})
    found = {group["depth"]: group["names"] for group in groups.groups(model)}
    assert found == {0: ["head.weight", "head.bias"], 2: ["stem.weight", "stem.bias"]}


def test_parameters_that_are_alike_make_one_group_in_the_models_order() -> None:
    model = unet(2)
    extra = nn.Parameter(torch.ones(1))
    optimizer = ParameterGroups(**ALIKE).optimizer(lambda given: SGD(given, lr=0.1), model, also=[extra])
    (group,) = optimizer.param_groups
    assert [id(item) for item in group["params"]] == [id(item) for item in [*model.parameters(), extra]]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"layer_decay": 0.0}, r"parameter_groups\.layer_decay"),
        ({"layer_decay": 0.9, "layers": ["0.*"]}, r"parameter_groups\.layers .*1\.weight"),
        ({"layer_decay": 0.9, "layers": ["x.*", "*"]}, r"parameter_groups\.layers: pattern x\.\* matches no"),
        ({"no_decay": ["1.wieght"]}, r"parameter_groups\.no_decay: pattern 1\.wieght .*did you mean 1\.weight"),
    ],
)
def test_unfit_knobs_and_patterns_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        ParameterGroups(**ALIKE | wrong).groups(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))

"""Every optimiser under conf/optimizer: it minimises, each knob acts, and it goes on bitwise from its state."""

import copy
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.optim import Optimizer

from medexp.core.errors import UsageError
from medexp.core.instantiate import instantiate
from medexp.engine.optimizers.averaging import AveragingOptimizer, judged_weights
from medexp.engine.optimizers.lion import Lion
from medexp.engine.optimizers.schedule_free import ScheduleFreeAdamW

# Of torch's own Adafactor.
pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")
CONF = Path(__file__).parents[2] / "conf"
NAMES = sorted(file.stem for file in (CONF / "optimizer").glob("*.yaml"))
# A knob that has no effect on its own, and what it needs beside it.
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("sgd", "dampening"): {"momentum": 0.5},
    ("sgd_nesterov", "dampening"): {"nesterov": False},
    ("sgd_layer_wise", "dampening"): {"nesterov": False},
    ("sgd", "nesterov"): {"momentum": 0.5},
    **{(name, "decoupled_weight_decay"): {"weight_decay": 0.1} for name in ("radam", "nadam")},
}
# Another value, where a plain change of the number would not be one that the optimiser takes or that can be seen.
OTHER: dict[str, Any] = {"betas[0]": 0.5, "betas[1]": 0.5, "alpha": 0.5, "momentum": 0.5, "beta": 0.5, "beta2": 0.5}
OTHER |= {"dampening": 0.5, "weight_decay": 0.2, "eps": 0.1, "eps[0]": 50.0, "eps[1]": 10.0, "d": 5.0}
OTHER |= {"beta2_decay": -0.1, "momentum_decay": 0.5}


@functools.cache
def knobs_of_all() -> dict[str, dict[str, Any]]:
    """The knobs of each option."""
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3", job_name="test"):
        composed = compose("train", overrides=[f"+optimizer@probe.{name}={name}" for name in NAMES])
    content = OmegaConf.to_container(composed.probe)
    assert isinstance(content, dict)
    return {str(name): knobs for name, knobs in content.items()}


def made(name: str, parameters: Any, **changed: Any) -> Optimizer:
    config = OmegaConf.create({**knobs_of_all()[name], **changed})
    optimizer = instantiate(config, "optimizer")(parameters)
    assert isinstance(optimizer, Optimizer)
    return optimizer


def leaves_of(name: str) -> Iterator[tuple[str, Any]]:
    for key, value in knobs_of_all()[name].items():
        if isinstance(value, list):
            yield from ((f"{key}[{index}]", item) for index, item in enumerate(value))
        elif not key.startswith("_"):
            yield key, value


def with_leaf(name: str, leaf: str, value: Any) -> dict[str, Any]:
    key, _, index = leaf.rstrip("]").partition("[")
    if not index:
        return {key: value}
    values = list(knobs_of_all()[name][key])
    values[int(index)] = value
    return {key: values}


def judged(optimizer: Optimizer, parameter: Tensor) -> Tensor:
    with judged_weights([optimizer]):
        return parameter.detach().clone()


def walk(optimizer: Optimizer, weights: Tensor, *, steps: int, growth: float = 0.0) -> None:
    """Steps on |weights - 1|^2 with different curvatures, which may grow from step to step."""
    curvatures = torch.linspace(0.5, 2.0, weights.numel()).reshape(weights.shape)
    for step in range(steps):
        optimizer.zero_grad()
        ((1.0 + growth * step) * curvatures * (weights - 1.0) ** 2).sum().backward()
        optimizer.step()


def start() -> nn.Parameter:
    return nn.Parameter(torch.tensor([[3.0, -2.0, 0.5], [1.5, -1.0, 2.0]]))


@pytest.mark.parametrize("name", NAMES)
def test_each_minimises_a_quadratic(name: str) -> None:
    weights = start()
    optimizer = made(name, [weights], lr=0.05, weight_decay=0.0)
    before = float(((weights - 1.0) ** 2).sum())
    walk(optimizer, weights, steps=400)
    assert float(((judged(optimizer, weights) - 1.0) ** 2).sum()) < 0.01 * before


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dims", [2, 3])
def test_each_trains_a_small_net(name: str, dims: int) -> None:
    torch.manual_seed(0)
    conv = (nn.Conv2d, nn.Conv3d)[dims - 2]
    net = nn.Sequential(conv(1, 4, 3, padding=1), nn.PReLU(), conv(4, 1, 3, padding=1))
    images = torch.randn(4, 1, *[8] * dims)
    wanted = images.roll(1, -1) - images
    optimizer = made(name, net.parameters(), lr=0.01)

    def loss() -> Tensor:
        return nn.functional.mse_loss(net(images), wanted)

    before = float(loss())
    for _ in range(60):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    with judged_weights([optimizer]):
        assert float(loss()) < 0.7 * before


@pytest.mark.parametrize("name", NAMES)
def test_each_knob_changes_the_steps(name: str) -> None:
    unmoved = []
    for leaf, value in leaves_of(name):
        key = leaf.partition("[")[0]
        other = (not value) if isinstance(value, bool) else OTHER.get(leaf, 0.05)
        assert other != value, leaf
        beside = BESIDE.get((name, key), {})
        ends = []
        for changed in (beside, {**beside, **with_leaf(name, leaf, other)}):
            weights = start()
            walk(made(name, [weights], **{"lr": 0.1, **changed}), weights, steps=12, growth=0.5)
            ends.append(weights.detach())
        if torch.equal(*ends):
            unmoved.append(leaf)
    assert unmoved == []


@pytest.mark.parametrize("name", NAMES)
def test_each_goes_on_bitwise_from_its_state(name: str) -> None:
    whole, begun = start(), start()
    walk(made(name, [whole]), whole, steps=9)
    first = made(name, [begun])
    walk(first, begun, steps=4)
    state = copy.deepcopy(first.state_dict())
    # A checkpoint holds the weights that are judged.
    resumed = nn.Parameter(judged(first, begun))
    second = made(name, [resumed])
    second.load_state_dict(state)
    if isinstance(second, AveragingOptimizer):
        second.go_on()
    walk(second, resumed, steps=5)
    assert torch.equal(whole, resumed)


def test_two_steps_of_lion_are_those_of_the_paper() -> None:
    lr, (in_step, kept), decay = 0.1, (0.9, 0.99), 0.5
    weights = nn.Parameter(torch.tensor([1.0, -2.0, 4.0]))
    optimizer = Lion([weights], lr=lr, betas=(in_step, kept), weight_decay=decay)
    gradients = torch.tensor([[0.2, -3.0, 0.0], [-0.1, -1.0, 5.0]])
    wanted, momentum = [1.0, -2.0, 4.0], [0.0, 0.0, 0.0]
    for gradient in gradients:
        weights.grad = gradient.clone()
        optimizer.step()
        for i, g in enumerate(gradient.tolist()):
            c = in_step * momentum[i] + (1 - in_step) * g
            wanted[i] -= lr * ((c > 0) - (c < 0) + decay * wanted[i])
            momentum[i] = kept * momentum[i] + (1 - kept) * g
    torch.testing.assert_close(weights.detach(), torch.tensor(wanted))
    # First step: 1 - 0.1 (1 + 0.5); -2 + 0.1 (1 + 1); 4 - 0.1 * 2 without a gradient.
    assert wanted[0] == pytest.approx(0.85 - 0.1 * (-1 + 0.5 * 0.85))


def test_schedule_free_judges_the_average_of_its_steps_weighted_by_the_squared_learning_rate() -> None:
    weights = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    knobs = {"lr": 0.1, "beta": 0.8, "beta2": 0.9, "eps": 1e-8, "weight_decay": 0.3}
    optimizer = ScheduleFreeAdamW([weights], **knobs)
    z, x, v = [1.0, -2.0], [1.0, -2.0], [0.0, 0.0]
    rates, places = [0.05, 0.1, 0.1, 0.02], []
    for step, lr in enumerate(rates, start=1):
        optimizer.param_groups[0]["lr"] = lr
        weights.grad = 2.0 * weights.detach() + 1.0
        optimizer.step()
        for i in range(2):
            y = 0.2 * z[i] + 0.8 * x[i]
            g = 2.0 * y + 1.0
            v[i] = 0.9 * v[i] + 0.1 * g * g
            z[i] -= lr * g / (math.sqrt(v[i] / (1 - 0.9**step)) + 1e-8) + lr * 0.3 * y
        places.append(list(z))
        weight = [rate**2 for rate in rates[:step]]
        x = [sum(w * place[i] for w, place in zip(weight, places, strict=True)) / sum(weight) for i in range(2)]
        wanted = torch.tensor(x, dtype=torch.float64)
        torch.testing.assert_close(judged(optimizer, weights), wanted, rtol=1e-10, atol=1e-12)


def test_judging_the_average_changes_no_bit_of_the_training() -> None:
    quiet, watched = start(), start()
    walk(made("schedule_free", [quiet]), quiet, steps=10)
    optimizer = made("schedule_free", [watched])
    for _ in range(10):
        walk(optimizer, watched, steps=1)
        with judged_weights([optimizer]), judged_weights([optimizer]):
            assert not torch.equal(quiet, watched)
    assert torch.equal(quiet, watched)


def test_a_step_from_the_average_is_refused() -> None:
    weights = start()
    optimizer = made("schedule_free", [weights])
    with judged_weights([optimizer]), pytest.raises(RuntimeError, match="go_on"):
        walk(optimizer, weights, steps=1)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("lion", {"lr": -1.0}),
        ("lion", {"betas": [0.9]}),
        ("lion", {"betas": [0.9, 1.0]}),
        ("schedule_free", {"beta": 1.0}),
        ("schedule_free", {"weight_decay": -0.1}),
    ],
)
def test_unfit_knobs_are_refused_by_name(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=rf"optimizer\.(lr|{next(iter(wrong))})"):
        made(name, [start()], **wrong)


@pytest.mark.parametrize("name", NAMES)
def test_a_scaler_of_gradients_skips_the_step_of_an_overflow_and_takes_the_next(name: str) -> None:
    weights = start()
    optimizer = made(name, [weights])
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    before = weights.detach().clone()
    for factor in (math.inf, 1.0):
        optimizer.zero_grad()
        scaler.scale((factor * weights**2).sum()).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_([weights], 1.0)
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(weights, before) is math.isinf(factor)
        assert bool(torch.isfinite(weights).all())

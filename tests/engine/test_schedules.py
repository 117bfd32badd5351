"""Schedules against torch's own; where a momentum moves; what a plateau needs."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
)

from medexp.core.errors import UsageError
from medexp.engine.rates import Rates
from medexp.engine.schedules import Constant, Cosine, OneCycle, Plateau, Polynomial, Schedule, Step

CYCLE: dict[str, Any] = {
    "warmup_steps": 0,
    "rising_share": 0.3,
    "start_factor": 0.04,
    "final_factor": 4e-6,
    "momentum": [0.85, 0.95],
    "shape": "cosine",
    "three_phases": False,
}
PLATEAU: dict[str, Any] = {
    "warmup_steps": 0,
    "metric": "dice",
    "drop_factor": 0.5,
    "patience": 1,
    "min_gain": 0.01,
    "cooldown": 0,
    "final_factor": 0.1,
}


def _parameter() -> nn.Parameter:
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    return parameter


def _followed(optimizer: Optimizer, scheduler: LRScheduler, steps: int) -> list[tuple[float, float]]:
    """Learning rate and momentum that each step takes."""
    found = []
    for step in range(steps):
        group = optimizer.param_groups[0]
        found.append((group["lr"], group["betas"][0] if "betas" in group else group["momentum"]))
        optimizer.step()
        if step + 1 < steps:
            scheduler.step()
    return found


@pytest.mark.parametrize("total", [1, 7, 40])
@pytest.mark.parametrize(
    ("schedule", "oracle"),
    [
        (Polynomial(warmup_steps=0, power=0.9), lambda o, n: PolynomialLR(o, total_iters=n, power=0.9)),
        (Cosine(warmup_steps=0, final_factor=0.1), lambda o, n: CosineAnnealingLR(o, T_max=n, eta_min=0.1 * 0.3)),
        (
            Step(warmup_steps=0, milestones=[0.5, 0.75], drop_factor=0.1),
            lambda o, n: MultiStepLR(o, milestones=[math.ceil(0.5 * n), math.ceil(0.75 * n)], gamma=0.1),
        ),
    ],
    ids=["polynomial", "cosine", "step"],
)
def test_learning_rates_are_those_of_torch(schedule: Schedule, oracle: Any, total: int) -> None:
    ours, theirs = (SGD([_parameter()], lr=0.3) for _ in range(2))
    found = _followed(ours, Rates(ours, schedule, total_steps=total), total)
    wanted = _followed(theirs, oracle(theirs, total), total)
    assert [lr for lr, _ in found] == pytest.approx([lr for lr, _ in wanted], rel=1e-9)


@pytest.mark.parametrize("total", [10, 37])
@pytest.mark.parametrize("three_phases", [False, True])
@pytest.mark.parametrize("shape", ["cosine", "linear"])
@pytest.mark.parametrize("with_betas", [False, True])
def test_one_cycle_moves_learning_rate_and_momentum_as_torch_does(
    total: int, three_phases: bool, shape: str, with_betas: bool
) -> None:
    ours, theirs = (
        Adam([_parameter()], lr=0.3) if with_betas else SGD([_parameter()], lr=0.3, momentum=0.9) for _ in range(2)
    )
    schedule = OneCycle(**CYCLE | {"three_phases": three_phases, "shape": shape})
    oracle = OneCycleLR(
        theirs,
        0.3,
        total_steps=total,
        anneal_strategy=shape[:3] if shape == "cosine" else shape,
        three_phase=three_phases,
    )
    found = _followed(ours, Rates(ours, schedule, total_steps=total), total)
    for one, other in zip(found, _followed(theirs, oracle, total), strict=True):
        assert one == pytest.approx(other, rel=1e-9)


def test_one_cycle_without_momentum_leaves_the_optimisers() -> None:
    optimizer = Adam([_parameter()], lr=0.3, betas=(0.7, 0.9))
    rates = Rates(optimizer, OneCycle(**CYCLE | {"momentum": None}), total_steps=5)
    assert {momentum for _, momentum in _followed(optimizer, rates, 5)} == {0.7}


def test_a_momentum_that_the_optimiser_has_not_got_is_refused() -> None:
    with pytest.raises(UsageError, match=r"scheduler\.momentum .* SGD"):
        Rates(SGD([_parameter()], lr=0.1), OneCycle(**CYCLE), total_steps=5)


@pytest.mark.parametrize(
    "schedule",
    [
        Constant(warmup_steps=4),
        Polynomial(warmup_steps=4, power=0.9),
        Cosine(warmup_steps=4, final_factor=0.0),
        Step(warmup_steps=4, milestones=[0.5], drop_factor=0.1),
        OneCycle(**CYCLE | {"warmup_steps": 4}),
        Plateau(**PLATEAU | {"warmup_steps": 4}),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_a_warm_up_rises_in_equal_steps_to_the_schedules_first_value(schedule: Schedule) -> None:
    factors = [schedule.factor(step, 24) for step in range(24)]
    assert factors[:5] == pytest.approx([factors[4] * n / 5 for n in range(1, 6)])
    bare = [type(schedule).factor(schedule, step, 24) for step in range(4, 24)]
    schedule.warmup_steps = 0
    assert bare == pytest.approx([schedule.factor(step, 20) for step in range(20)])


def _levels(scores: Sequence[float], **knobs: Any) -> list[float]:
    optimizer = SGD([_parameter()], lr=0.4)
    rates = Rates(optimizer, Plateau(**PLATEAU | knobs), total_steps=100)
    found = []
    for score in scores:
        rates.observe(score)
        optimizer.step()
        found.append(optimizer.param_groups[0]["lr"])
        rates.step()
        assert optimizer.param_groups[0]["lr"] == found[-1]
    return found


@pytest.mark.parametrize("knobs", [{}, {"patience": 0, "cooldown": 2}, {"min_gain": 0.2}, {"drop_factor": 0.3}])
def test_a_plateau_drops_where_torch_does(knobs: dict[str, Any]) -> None:
    scores = [0.1, 0.3, 0.305, 0.2, 0.2, 0.5, 0.5, 0.5, 0.5, 0.505, 0.4, 0.6, 0.6, 0.6, 0.6, 0.7, 0.1, 0.1, 0.1, 0.1]
    merged = PLATEAU | knobs
    optimizer = SGD([_parameter()], lr=0.4)
    oracle = ReduceLROnPlateau(
        optimizer,
        mode="max",
        factor=merged["drop_factor"],
        patience=merged["patience"],
        threshold=merged["min_gain"],
        threshold_mode="abs",
        cooldown=merged["cooldown"],
        min_lr=0.4 * merged["final_factor"],
    )
    wanted = []
    for score in scores:
        oracle.step(score)
        wanted.append(optimizer.param_groups[0]["lr"])
    assert len(set(wanted)) > 2
    assert _levels(scores, **knobs) == pytest.approx(wanted, rel=1e-9)


def test_an_undefined_score_is_passed_over() -> None:
    assert _levels([0.5, math.nan, math.nan, math.nan, 0.6]) == [0.4] * 5


def test_a_schedule_goes_on_from_its_state_with_another_length() -> None:
    def fresh(total: int) -> tuple[Optimizer, Rates]:
        optimizer = SGD([_parameter()], lr=0.4)
        return optimizer, Rates(optimizer, Plateau(**PLATEAU), total_steps=total)

    optimizer, rates = fresh(10)
    for score in (0.5, 0.5, 0.5):
        optimizer.step()
        rates.step()
        rates.observe(score)
    other_optimizer, other = fresh(20)
    other_optimizer.load_state_dict(optimizer.state_dict())
    other.load_state_dict(rates.state_dict())
    assert (other.last_epoch, other.total_steps) == (3, 20)
    for score in (0.5, 0.5, 0.7):
        for pair in ((optimizer, rates), (other_optimizer, other)):
            pair[0].step()
            pair[1].step()
            pair[1].observe(score)
        assert other_optimizer.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("kind", "knobs", "key"),
    [
        (OneCycle, CYCLE | {"rising_share": 0.6, "three_phases": True}, "rising_share"),
        (OneCycle, CYCLE | {"momentum": [0.9]}, "momentum"),
        (OneCycle, CYCLE | {"shape": "cos"}, "shape"),
        (Plateau, PLATEAU | {"drop_factor": 1.0}, "drop_factor"),
        (Plateau, PLATEAU | {"patience": -1}, "patience"),
        (Step, {"warmup_steps": 0, "milestones": [30.0], "drop_factor": 0.1}, "milestones"),
        (Constant, {"warmup_steps": -1}, "warmup_steps"),
    ],
)
def test_unfit_knobs_are_refused_by_name(kind: type[Schedule], knobs: dict[str, Any], key: str) -> None:
    with pytest.raises(UsageError, match=rf"scheduler\.{key}"):
        kind(**knobs)

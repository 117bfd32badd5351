"""What every loss under conf/loss keeps to; an option file that is added is tested by itself.

That every knob counts and that descent finds the target stands in test_configured_losses.py, what unannotated voxels
must not do in test_ignore_index.py, and what a loss does not promise in EXEMPT of loss_examples.py.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from loss_examples import (
    DESCENT,
    EXEMPT,
    FALSE_ALARM,
    LOSSES,
    PAIRS,
    SHIFT,
    build,
    build_any,
    example,
    is_auxiliary,
    keeps,
    total,
)
from torch import Tensor

from medexp.losses.cross_entropy import CrossEntropy

torch.set_num_threads(1)

SHAPES = [(14, 12), (8, 9, 7)]


def objects(kind: str, shape: tuple[int, ...], *, without: int | None = None) -> Tensor:
    """An organ with a core, or three regions of which two overlap, two images; a class may be absent."""
    axes = torch.meshgrid(*(torch.arange(size) - size / 2 + 0.4 for size in shape), indexing="ij")
    radius = torch.stack([axis**2 for axis in axes]).sum(dim=0).sqrt()
    organ, core = radius < 0.38 * min(shape), radius < 0.22 * min(shape)
    if kind == "classes":
        image = (organ.short() + core.short())[None]
    else:
        image = torch.stack([organ, core, organ.roll(1, dims=0)]).short()
    target = torch.stack([image, image.roll(1, dims=1)])
    if without is not None and kind == "classes":
        target[target == without] = 0
    elif without is not None:
        target[:, without - 1] = 0
    return target


def sure(target: Tensor, kind: str, *, channels: int = 3, size: float = 12.0) -> Tensor:
    """Logits that say what a target says."""
    if kind == "regions":
        return size * (2 * target.double() - 1)
    return size * (2 * F.one_hot(target[:, 0].long(), channels).movedim(-1, 1).double() - 1)


def mistaken(target: Tensor, kind: str) -> dict[str, Tensor]:
    """Logits that are wrong in several ways."""
    generator = torch.Generator().manual_seed(0)
    values = 3 if kind == "classes" else 2
    noise = torch.randint(values, target.shape, generator=generator, dtype=torch.int16)
    wrong = {
        "empty": torch.zeros_like(target),
        "shifted": target.roll(2, dims=2),
        "other": (target + 1) % values,
        "noise": noise,
        "some noise": torch.where(torch.rand(target.shape, generator=generator) < 0.1, noise, target),
    }
    found = {name: sure(labels, kind) for name, labels in wrong.items()}
    return found | {"undecided": 0.0 * sure(target, kind), "less sure": 0.1 * sure(target, kind)}


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_the_perfect_prediction_is_the_minimum(name, kind):
    loss = build(name, kind)
    for shape, without in ((SHAPES[0], None), (SHAPES[0], 1), (SHAPES[1], None)):
        target = objects(kind, shape, without=without)
        perfect = total(loss, sure(target, kind), target).item()
        values = {mistake: total(loss, logits, target).item() for mistake, logits in mistaken(target, kind).items()}
        assert {mistake: value for mistake, value in values.items() if value < perfect - 1e-9} == {}
        assert values["empty"] > perfect + 1e-6
        assert values["shifted"] > perfect + 1e-6 or name in EXEMPT[SHIFT]


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_the_names_of_the_classes_do_not_matter(name, kind):
    logits, target = example(kind, channels=4, shape=(7, 6))
    order = torch.tensor([0, 3, 1, 2])
    if kind == "regions":
        order, renamed = order.flip(0), target[:, order.flip(0)]
    else:
        renamed = order.argsort()[target.long()].short()
    loss = build(name, kind)
    assert total(loss, logits[:, order], renamed).item() == pytest.approx(total(loss, logits, target).item(), rel=1e-9)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_class_that_no_image_shows_leaves_loss_and_gradient_finite(name, kind):
    target = objects(kind, SHAPES[0], without=2)
    logits = example(kind, shape=SHAPES[0])[0].requires_grad_()
    value = total(build(name, kind), logits, target)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad != 0).any()


@pytest.mark.parametrize(("name", "kind"), keeps(FALSE_ALARM))
def test_a_false_alarm_in_an_image_without_any_class_is_worse_than_none(name, kind):
    alarm = objects(kind, SHAPES[0])
    nothing = torch.zeros_like(alarm)
    loss = build(name, kind)
    assert total(loss, sure(alarm, kind), nothing) > total(loss, sure(nothing, kind), nothing) + 1e-6


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_one_foreground_serves(name, kind):
    channels = 2 if kind == "classes" else 1
    target = objects(kind, SHAPES[0])[:, :1].clamp_max(1)
    loss = build(name, kind)
    logits = example(kind, channels=channels, shape=SHAPES[0])[0].requires_grad_()
    value = total(loss, logits, target)
    value.backward()
    assert (logits.grad.abs().flatten(2).sum(dim=2) > 0).all()
    assert value > total(loss, sure(target, kind, channels=channels), target)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_half_precision_gives_the_loss_of_the_same_numbers_in_full(name, kind):
    target = objects(kind, SHAPES[0])
    loss = build(name, kind)
    for dtype in (torch.float16, torch.bfloat16):
        rounded = example(kind, shape=SHAPES[0])[0].to(dtype).requires_grad_()
        value = total(loss, rounded, target)
        value.backward()
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(total(loss, rounded.detach().double(), target).item(), rel=1e-4)
        assert torch.isfinite(rounded.grad).all()


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_huge_logits_leave_loss_and_gradient_finite(name, kind):
    target = objects(kind, SHAPES[0])
    right = sure(target, kind, size=1e4)
    loss = build(name, kind)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        for logits in (right, -right, right.roll(1, dims=2)):
            leaf = logits.to(dtype).requires_grad_()
            value = total(loss, leaf, target)
            value.backward()
            assert torch.isfinite(value)
            assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_the_gradient_is_that_of_finite_differences(name, kind):
    loss = build(name, kind)
    for shape in ((4, 3), (3, 2, 3)):
        logits, target = example(kind, shape=shape, seed=3)
        torch.autograd.gradcheck(
            lambda given, target=target: total(loss, given, target), logits.requires_grad_(), fast_mode=True
        )


def test_label_smoothing_moves_the_minimum_away_from_the_perfect_prediction():
    target = objects("classes", SHAPES[0])
    smoothed = CrossEntropy(sigmoid=False, label_smoothing=0.2)
    assert smoothed(0.2 * sure(target, "classes"), target) < smoothed(sure(target, "classes"), target)


def test_a_loss_that_needs_another_beside_it_is_in_a_sum():
    summed = {term for name in LOSSES for term in getattr(build_any(name), "terms", {})}
    assert {name for name in LOSSES if is_auxiliary(name)} <= summed


def test_no_exemption_is_left_over():
    assert {name for exempt in EXEMPT.values() for name in exempt} <= set(LOSSES)
    assert {name for name in LOSSES if is_auxiliary(name)} == set(EXEMPT[DESCENT])

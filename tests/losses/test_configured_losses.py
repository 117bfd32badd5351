"""Every loss under conf/loss: each of its leaves counts, and it trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loss_examples import KINDS, LOSSES, build, config_of, example, total
from omegaconf import OmegaConf

from medexp.core.config import leaves
from medexp.core.errors import UsageError

torch.set_num_threads(1)
# Another value for a leaf that is null.
FROM_NULL = {"alpha": 0.25, "weight": [1.0, 3.0, 0.5]}


def leaf_keys(name: str) -> list[str]:
    """Leaves that a user may set; what follows from the task is none."""
    content = OmegaConf.to_container(config_of(name, "classes"), resolve=False)
    return [key for key, value in leaves(content) if not key.endswith("_target_") and not str(value).startswith("${")]


def another(key: str, value: Any, kind: str) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2 if value else 0.5
    other = FROM_NULL[key.rsplit(".", 1)[-1]]
    # The background is no class that counts for Dice.
    return other[1:] if isinstance(other, list) and kind == "classes" else other


def is_refused(key: str, kind: str) -> bool:
    """Whether another value has no meaning: overlapping regions have no background that could be counted."""
    return kind == "regions" and key.endswith("include_background")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "key"), [(name, key) for name in LOSSES for key in leaf_keys(name)])
def test_every_leaf_changes_the_loss_or_is_refused(name, key, kind):
    logits, target = example(kind)
    value = another(key, OmegaConf.select(config_of(name, kind), key), kind)
    if is_refused(key, kind):
        with pytest.raises(UsageError, match=rf"loss\.{key.rsplit('.', 1)[-1]}="):
            build(name, kind, **{key: value})
        return
    before = total(build(name, kind), logits, target)
    assert abs(total(build(name, kind, **{key: value}), logits, target) - before).item() > 1e-12


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSES)
def test_descent_on_the_loss_finds_the_target(name, kind):
    logits, target = example(kind)
    logits.requires_grad_()
    loss, optimizer = build(name, kind), torch.optim.Adam([logits], lr=0.3)
    for _ in range(150):
        optimizer.zero_grad()
        total(loss, logits, target).backward()
        optimizer.step()
    found = logits.argmax(dim=1, keepdim=True) if kind == "classes" else logits > 0
    assert (found == target).double().mean() > 0.97


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(7,), (5, 4), (3, 4, 2)])
def test_every_number_of_dimensions_serves(name, kind, shape):
    logits, target = example(kind, shape=shape)
    flat = total(build(name, kind), logits.flatten(2), target.flatten(2))
    assert total(build(name, kind), logits, target).item() == pytest.approx(flat.item())


@pytest.mark.parametrize("name", LOSSES)
def test_regions_overlap_without_disturbing_each_other(name):
    logits, target = example("regions")
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(total(build(name, "regions"), logits, target), logits)
    changed = logits.detach().clone()
    changed[:, 0] += 1.0
    changed.requires_grad_()
    (other,) = torch.autograd.grad(total(build(name, "regions"), changed, target), changed)
    torch.testing.assert_close(other[:, 1:], gradient[:, 1:])
    assert not torch.allclose(other[:, 0], gradient[:, 0])

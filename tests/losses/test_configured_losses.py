"""Every loss under conf/loss: each of its leaves counts, and it trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loss_examples import DESCENT, LOSSES, PAIRS, REGIONS, build, config_of, example, keeps, sees_places, total
from omegaconf import OmegaConf

from medexp.core.config import leaves
from medexp.core.errors import UsageError

torch.set_num_threads(1)
# Another value for a leaf that is null.
FROM_NULL = {
    "alpha": 0.25,
    "weight": [1.0, 3.0, 0.5],
    "pos_weight": [1.0, 3.0, 0.5],
    "top_k_percent": 20.0,
    "spacing_mm": [1.0, 3.0],
    "distances": [[0.0, 1.0, 1.0], [1.0, 0.0, 0.5], [1.0, 0.5, 0.0]],
}
OTHER_WORDS = {"square": "simple", "default": "volume"}


def leaf_keys(name: str) -> list[str]:
    """Leaves that a user may set; none follows from the task, and the terms of a sum have tests of their own."""
    content = OmegaConf.to_container(config_of(name, "classes"), resolve=False)
    mine = [(key, value) for key, value in leaves(content) if not key.startswith("terms.")]
    return [key for key, value in mine if not key.endswith("_target_") and not str(value).startswith("${")]


@pytest.mark.parametrize("name", [name for name in LOSSES if "terms" in config_of(name, "classes")])
def test_the_terms_of_a_sum_are_losses_with_tests_of_their_own(name):
    for term, content in config_of(name, "classes").terms.items():
        assert content == config_of(term, "classes")


def another(name: str, key: str, kind: str) -> Any:
    config = config_of(name, kind)
    value = OmegaConf.select(config, key)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return (value * 2 if isinstance(value, int) else value / 2) if value else 0.5
    if isinstance(value, str):
        return OTHER_WORDS[value]
    other = FROM_NULL[key.rsplit(".", 1)[-1]]
    *above, last = key.split(".")
    owner = OmegaConf.select(config, ".".join(above)) if above else config
    # The background is no class that counts for Dice.
    return other[1:] if last == "weight" and kind == "classes" and owner["_target_"].endswith("Dice") else other


def is_refused(key: str, kind: str) -> bool:
    """Whether another value has no meaning: overlapping regions have no background that could be counted."""
    return kind == "regions" and key.endswith("include_background")


@pytest.mark.parametrize(("name", "kind", "key"), [(*pair, key) for pair in PAIRS for key in leaf_keys(pair[0])])
def test_every_leaf_changes_the_loss_or_is_refused(name, kind, key):
    logits, target = example(kind, shape=(12, 11))
    value = another(name, key, kind)
    if is_refused(key, kind):
        with pytest.raises(UsageError, match=rf"loss\.{key.rsplit('.', 1)[-1]}="):
            build(name, kind, **{key: value})
        return
    before = total(build(name, kind), logits, target)
    assert abs(total(build(name, kind, **{key: value}), logits, target) - before).item() > 1e-12


@pytest.mark.parametrize(("name", "kind"), keeps(DESCENT))
def test_descent_on_the_loss_finds_the_target(name, kind):
    logits, target = example(kind)
    logits.requires_grad_()
    loss, optimizer = build(name, kind), torch.optim.Adam([logits], lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        total(loss, logits, target).backward()
        optimizer.step()
    found = logits.argmax(dim=1, keepdim=True) if kind == "classes" else logits > 0
    assert (found == target).double().mean() > 0.97


@pytest.mark.parametrize(("name", "kind"), [pair for pair in PAIRS if not sees_places(pair[0])])
@pytest.mark.parametrize("shape", [(7,), (5, 4), (3, 4, 2)])
def test_every_number_of_dimensions_serves(name, kind, shape):
    logits, target = example(kind, shape=shape)
    flat = total(build(name, kind), logits.flatten(2), target.flatten(2))
    assert total(build(name, kind), logits, target).item() == pytest.approx(flat.item())


@pytest.mark.parametrize(("name", "kind"), [pair for pair in PAIRS if sees_places(pair[0])])
def test_a_map_of_one_layer_has_the_loss_of_the_layer(name, kind):
    logits, target = example(kind, shape=(6, 7))
    layer = total(build(name, kind), logits[..., None], target[..., None])
    assert total(build(name, kind), logits, target).item() == pytest.approx(layer.item())


@pytest.mark.parametrize("name", [name for name, kind in keeps(REGIONS) if kind == "regions"])
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

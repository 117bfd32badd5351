"""Choosing the loss that `loss=auto` leaves open, once for a study."""

from __future__ import annotations

import math
from typing import Any

from omegaconf import DictConfig

from medexp.core.config import plain
from medexp.core.errors import UsageError
from medexp.core.hashing import hash_plain
from medexp.data.configured import identity_of
from medexp.data.fingerprint import Fingerprint
from medexp.data.fingerprint.configured import fingerprint_of
from medexp.engine.study import Study
from medexp.losses.auto import Auto, choose

_AUTO = f"{Auto.__module__}.{Auto.__qualname__}"


def pin_loss(config: DictConfig, study: Study) -> dict[str, Any] | None:
    """Put the study's choice in the place of `loss=auto`.

    Args:
        config: Is changed.
        study: Where the choice is pinned; its first run makes it.

    Returns:
        What was chosen and why, for JSON; None where the loss is given.

    Raises:
        UsageError: The task has no classes of voxels, or the dataset no masks.
        DataError: Tells what is wrong with each case that cannot be read.
    """
    if config.loss.get("_target_") != _AUTO:
        return None
    found: dict[str, Any] = study.pin(_name(config), lambda: _chosen(config))
    config.loss = plain(config.loss, resolve=False)[found["option"]]
    return found


def _name(config: DictConfig) -> str:
    """A name for the choice of all runs that choose alike."""
    task = {
        key: value for key, value in plain(config.task, resolve=False).items() if key in ("regions", "ignore_index")
    }
    decisive = {"source": identity_of(config), "task": task, "imbalance_below": config.loss.imbalance_below}
    return f"loss {hash_plain(decisive)[:8]}"


def _chosen(config: DictConfig) -> tuple[dict[str, Any], str]:
    if "regions" not in config.task:
        raise UsageError("loss=auto chooses for classes of voxels, and this task has none; give a loss")
    fingerprint = fingerprint_of(config, learning=True)
    regions = config.task.regions
    ids = {name: [label] for label, name in fingerprint.labels.items() if label not in (0, config.task.ignore_index)}
    if regions is not None:
        ids = {name: list(labels) for name, labels in regions.items()}
    by_label = shares_of(fingerprint)
    shares = {name: sum(by_label.get(label, 0.0) for label in labels) for name, labels in ids.items()}
    if not shares or not all(map(math.isfinite, shares.values())):
        raise UsageError(f"loss=auto needs masks of classes, and {fingerprint.name} has none; give a loss")
    choice = choose(shares, overlapping=regions is not None, imbalance_below=float(config.loss.imbalance_below))
    found = {
        "option": choice.option,
        "loss": config.loss[choice.option]["_target_"],
        "reason": choice.reason,
        "shares": shares,
        "imbalance_below": config.loss.imbalance_below,
    }
    return found, choice.reason


def shares_of(fingerprint: Fingerprint) -> dict[int, float]:
    """Share of each label id among all voxels of the cases, those that nobody annotated too.

    Args:
        fingerprint: Of the cases.

    Returns:
        The share by label id; NaN where a class has no mask.
    """
    voxels = dict[int, float]()
    for case in fingerprint.cases:
        voxel_mm3 = math.prod(case.geometry.spacing_mm)
        for label, shown in case.classes.items():
            voxels[label] = voxels.get(label, 0.0) + shown.volume_mm3 / voxel_mm3
    total = sum(math.prod(case.shape) for case in fingerprint.cases)
    return {label: count / total for label, count in voxels.items()}

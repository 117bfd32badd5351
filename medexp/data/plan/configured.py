"""What a configuration leaves to the plan, and the configuration with the plan filled in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from medexp.core.config import plain
from medexp.core.errors import UsageError
from medexp.core.hashing import hash_plain
from medexp.core.instantiate import instantiate
from medexp.data.configured import identity_of
from medexp.data.fingerprint import Fingerprint
from medexp.data.fingerprint.configured import fingerprint_of
from medexp.data.plan.planner import plan
from medexp.data.plan.spacing import target_spacing
from medexp.data.plan.values import AUTO, Budget, Given, Plan

_LEVELS = ("filters", "strides", "kernel_size", "deep_supervision_levels")


def planned_keys(config: DictConfig) -> list[str]:
    """Dotted keys whose values the plan gives: what says `auto`, and the levels of `model=auto` that are null.

    Args:
        config: A finished configuration.

    Returns:
        The keys; none where nothing is planned.

    Raises:
        UsageError: Patch or batch say `auto` beside another model than `model=auto`.
    """
    dataset, model = plain(config.dataset), plain(config.model)
    sizes = [f"dataset.{name}" for name in ("patch_size", "batch_size") if dataset.get(name) == AUTO]
    spacing = dataset.get("preprocessing", {}).get("spacing_mm") == AUTO
    is_auto = "plan" in model
    if sizes and not is_auto:
        raise UsageError(f"{', '.join(sizes)}=auto needs model=auto, whose memory they follow from; give a size")
    levels = [f"model.{name}" for name in _LEVELS if is_auto and model[name] is None]
    return [*(["dataset.preprocessing.spacing_mm"] if spacing else []), *sizes, *levels]


def plan_name(config: DictConfig) -> str:
    """A name for the plan of all runs that are planned alike: by dataset, what is given, and the budget."""
    dataset, model = plain(config.dataset), plain(config.model)
    decisive = {
        "source": identity_of(config),
        "preprocessing": dataset.get("preprocessing"),
        "given": [dataset.get(name) for name in ("patch_size", "batch_size")],
        "model": {name: model.get(name) for name in ("plan", "residual", *_LEVELS)},
        "task": {name: knob for name, knob in plain(config.task).items() if name != "loss"},
        "device": [_is_mixed(config), _on_gpu(config)],
    }
    return f"plan {hash_plain(decisive)[:8]}"


def plan_values(config: DictConfig) -> tuple[dict[str, Any], str]:
    """What is planned, as plain values, and why.

    Args:
        config: A configuration that leaves something to the plan.

    Returns:
        The plan for JSON, and its reasons in one text.

    Raises:
        UsageError: Nothing fits the budget, what is given does not go together, or the task has no maps.
        DataError: Tells what is wrong with each case that cannot be read.
    """
    fingerprint = fingerprint_of(config, learning=True)
    if "plan" in config.model:
        found = plan_of(config, fingerprint).as_plain()
    else:
        spacing, why = _spacing(config, fingerprint)
        found = {"spacing_mm": spacing, "reasons": [f"Spacing: {why}."]}
    return found, " ".join(found["reasons"])


def plan_of(config: DictConfig, fingerprint: Fingerprint) -> Plan:
    """The plan for a configuration with `model=auto`.

    Args:
        config: A finished configuration.
        fingerprint: Of the cases that one may learn from.

    Returns:
        The plan.

    Raises:
        UsageError: Nothing fits the budget, what is given does not go together, or the task has no maps.
    """
    model = plain(config.model)
    task = instantiate(
        config.task, "task", offered={"spatial_dims": fingerprint.spatial_dims}, labels=dict(fingerprint.labels)
    )
    if not task.dense:
        raise UsageError("model=auto plans a network that gives maps, and this task has none; choose another model")
    return plan(
        fingerprint,
        out_channels=sum(task.heads.values()),
        budget=Budget(**model["plan"], mixed=_is_mixed(config), on_cpu=not _on_gpu(config)),
        given=Given.of(dataset=plain(config.dataset), model=model, spatial_dims=fingerprint.spatial_dims),
        crop_zeros=_crops(config),
        residual=model["residual"],
    )


def fill_in(config: DictConfig, values: Mapping[str, Any]) -> None:
    """Give the keys that are planned their values.

    Args:
        config: Is changed.
        values: As `plan_values` returns them, or as they were read from JSON.
    """
    planned = {
        "dataset.preprocessing.spacing_mm": values["spacing_mm"],
        **{f"dataset.{name}": values.get(name) for name in ("patch_size", "batch_size")},
        **{f"model.{name}": value for name, value in values.get("model", {}).items()},
    }
    for key in planned_keys(config):
        group, _, name = key.rpartition(".")
        section = config
        for part in group.split("."):
            section = section[part]
        section[name] = planned[key]


def _spacing(config: DictConfig, fingerprint: Fingerprint) -> tuple[list[float] | None, str]:
    if fingerprint.unit == "px":
        return None, "the images have no scale"
    shapes = fingerprint.nonzero_shapes if _crops(config) else fingerprint.shapes
    spacing, why = target_spacing(fingerprint.spacings_mm, shapes)
    return list(spacing), why


def _crops(config: DictConfig) -> bool:
    return bool(plain(config.dataset).get("preprocessing", {}).get("crop_zeros", False))


def _is_mixed(config: DictConfig) -> bool:
    """Whether maps will have half precision; on a CPU that is measured later, and full precision is planned for."""
    return bool(config.precision.endswith("-mixed")) if config.precision != AUTO else _on_gpu(config)


def _on_gpu(config: DictConfig) -> bool:
    import torch

    return config.trainer.accelerator in (AUTO, "gpu", "cuda") and torch.cuda.is_available()

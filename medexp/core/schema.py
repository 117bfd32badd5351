"""Which values the knobs take: kind and range by dotted key, checked before anything heavy is imported."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medexp.core.config import leaves
from medexp.core.errors import UsageError

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
_ABSENT = object()


@dataclass(frozen=True)
class Rule:
    """What a knob takes.

    Attributes:
        expects: In words, to follow "needs".
        accepts: Whether a value is of that kind and in range.
    """

    expects: str
    accepts: Callable[[Any], bool]

    def __or__(self, other: Rule) -> Rule:
        """Either of two."""
        return Rule(f"{self.expects} or {other.expects}", lambda value: self.accepts(value) or other.accepts(value))


def _whole(least: int) -> Rule:
    return Rule(
        f"a whole number from {least} on",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least,
    )


def _positive() -> Rule:
    return Rule("a number above 0", lambda value: _is_number(value) and value > 0)


def _share() -> Rule:
    return Rule("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _one_of(*words: str) -> Rule:
    return Rule(" or ".join(words), lambda value: value in words)


def _some_of(*words: str) -> Rule:
    return Rule(
        f"a list of {' or '.join(words)}",
        lambda value: isinstance(value, list) and bool(value) and all(word in words for word in value),
    )


def _list_of(rule: Rule, what: str) -> Rule:
    return Rule(f"a list of {what}", lambda value: isinstance(value, list) and all(map(rule.accepts, value)))


_NULL = Rule("null", lambda value: value is None)
_FLAG = Rule("true or false", lambda value: isinstance(value, bool))
_TEXT = Rule("a text", lambda value: isinstance(value, str) and bool(value))
_TEXTS = _list_of(_TEXT, "texts")
_COUNTS = _list_of(_whole(1), "whole numbers from 1 on")

RULES: Mapping[str, Rule] = {
    "seed": _whole(0),
    "fold": _whole(0),
    "precision": _one_of("auto", *PRECISIONS),
    "threads": _one_of("auto") | _whole(1),
    "init_from": _NULL | _TEXT,
    "init_skip": _TEXTS,
    "freeze": _TEXTS,
    "overlays": _whole(0) | _list_of(_TEXT, "case ids"),
    "pictures.styles": _some_of("contour", "fill"),
    "pictures.formats": _some_of("png", "svg"),
    "pictures.layout": _one_of("planes", "slice", "montage"),
    "pictures.slices": _whole(1),
    "pictures.errors": _FLAG,
    "pictures.ids": _FLAG,
    "pictures.channel": _whole(0),
    "save_predictions": _FLAG,
    "on_change": _one_of("refuse", "resume", "new"),
    "retry": _one_of("interrupted", "failed"),
    # YAML reads a bare off as false.
    "preflight": Rule("full or build or off", lambda value: value in ("full", "build", "off") or value is False),
    "method": _NULL | _TEXT,
    "study": _TEXT,
    "paths.runs": _TEXT,
    "paths.cache": _TEXT,
    "paths.data": _TEXT,
    "paths.modules": _TEXTS,
    "paths.conf": _TEXTS,
    "trainer.max_epochs": _NULL | _whole(1),
    "trainer.steps_per_epoch": _NULL | _whole(1),
    "trainer.max_steps": _NULL | _whole(1),
    "trainer.accumulate": _whole(1),
    "trainer.gradient_clip_norm": _NULL | _positive(),
    "trainer.validate_every_epochs": _NULL | _whole(1),
    "trainer.accelerator": _one_of("auto", "cpu", "gpu", "cuda", "mps"),
    "trainer.devices": _one_of("auto") | _whole(1) | _list_of(_whole(0), "device numbers"),
    "trainer.num_nodes": _whole(1),
    "trainer.strategy": _TEXT,
    "trainer.deterministic": _FLAG,
    "trainer.tf32": _FLAG,
    "trainer.channels_last": _FLAG,
    "trainer.compile": _NULL | _TEXT,
    "trainer.checkpoint": _one_of("last", "best"),
    "trainer.checkpoints.every_steps": _NULL | _whole(1),
    "trainer.checkpoints.every_minutes": _NULL | _positive(),
    "trainer.checkpoints.every_epochs": _NULL | _whole(1),
    "trainer.checkpoints.keep_last": _whole(1),
    "trainer.checkpoints.keep_best": _FLAG,
}
# Another option, or a user's own, may lack these.
OPTIONAL_RULES: Mapping[str, Rule] = {
    "dataset.root": _NULL | _TEXT,
    "loss.imbalance_below": _share(),
    "dataset.split.n_folds": _whole(2),
    "dataset.split.n_groups": _NULL | _whole(2),
    "dataset.split.seed": _whole(0),
    "dataset.split.n_train": _NULL | _whole(1),
    "dataset.split.draw": _whole(0),
    "dataset.split.gap": _whole(0),
    "dataset.split.stratify": _NULL | _one_of("label", "presence", "load"),
    "dataset.split.stratify_classes": _NULL | _TEXTS,
    "dataset.split.stratify_quantiles": _whole(2),
    "dataset.preprocessing.spacing_mm": _list_of(_positive(), "numbers above 0") | _one_of("auto") | _NULL,
    "dataset.preprocessing.crop_zeros": _FLAG,
    "dataset.preprocessing.interpolation": _one_of("cubic", "linear"),
    "dataset.preprocessing.mask_interpolation": _one_of("nearest", "argmax"),
    "dataset.patch_size": _COUNTS | _one_of("auto"),
    "dataset.integrity": _one_of("error", "warn", "quarantine"),
    "dataset.batch_size": _whole(1) | _one_of("auto"),
    "dataset.foreground_fraction": _share(),
    "dataset.balance": _NULL | _one_of("label", "presence"),
    "dataset.workers": _one_of("auto") | _whole(0),
    "dataset.pin_memory": _one_of("auto") | _FLAG,
    "task.representation.n_rays": _NULL | _whole(3),
    "task.representation.anisotropy": _NULL | _list_of(_positive(), "numbers above 0"),
    "parameter_groups.no_decay": _TEXTS,
    "parameter_groups.layers": _TEXTS,
}


def check_values(config: Mapping[str, Any]) -> None:
    """Refuse values of the wrong kind or out of range.

    Args:
        config: A composed configuration as plain mappings, with its interpolations resolved.

    Raises:
        UsageError: Names every such key, what it needs and what it got.
    """
    wrong = [*_wrong_values(config), *_wrong_together(config)]
    if wrong:
        raise UsageError("; ".join(dict.fromkeys(wrong)))


def check_kinds(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse a text or a flag where the default is a number, and anything but a flag where it is a flag.

    Args:
        config: A composed configuration as plain mappings, its interpolations unresolved.
        defaults: The same without the values that are to be checked.

    Raises:
        UsageError: Names every such key, what it needs and what it got.
    """
    before, ruled = dict(leaves(defaults)), {**RULES, **OPTIONAL_RULES}
    wrong = [
        f"{key} needs {kind}, got {_shown(value)}"
        for key, value in leaves(config)
        if key not in ruled and (kind := _missed_kind(value, before.get(key))) is not None
    ]
    if wrong:
        raise UsageError("; ".join(wrong))


def _missed_kind(value: Any, default: Any) -> str | None:
    """The kind of the default that a value is not of, in words; interpolations and nulls may become anything."""
    if value is None or (isinstance(value, str) and "${" in value):
        return None
    if isinstance(default, bool):
        return None if isinstance(value, bool) else _FLAG.expects
    return "a number" if _is_number(default) and isinstance(value, str | bool) else None


def _wrong_values(config: Mapping[str, Any]) -> Iterator[str]:
    for key, rule in {**RULES, **OPTIONAL_RULES}.items():
        value = _at(config, key)
        if value is _ABSENT and key in RULES:
            yield f"{key} is missing; it needs {rule.expects}"
        elif value is not _ABSENT and not rule.accepts(value):
            yield f"{key} needs {rule.expects}, got {_shown(value)}"


def _wrong_together(config: Mapping[str, Any]) -> Iterator[str]:
    fold, n_folds = _at(config, "fold"), _at(config, "dataset.split.n_folds")
    if _whole(0).accepts(fold) and _whole(2).accepts(n_folds) and fold >= n_folds:
        yield f"fold needs 0..{n_folds - 1} with dataset.split.n_folds={n_folds}, got {fold}"
    if _at(config, "trainer.max_epochs") is None and _at(config, "trainer.max_steps") is None:
        yield "one of trainer.max_epochs and trainer.max_steps needs a whole number from 1 on, both are null"
    if _at(config, "trainer.checkpoint") == "best" and not (
        _at(config, "trainer.checkpoints.keep_best") and _at(config, "trainer.validate_every_epochs")
    ):
        yield "trainer.checkpoint=best needs trainer.checkpoints.keep_best=true and trainer.validate_every_epochs"


def _at(config: Mapping[str, Any], key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return _ABSENT
        node = node[part]
    return node


def _shown(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)

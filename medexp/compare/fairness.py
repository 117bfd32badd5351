"""Whether runs differ in nothing but the method: what must be equal, what should be, and what differs by design."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from medexp.compare.comparison import Fairness, Finding, Level
from medexp.compare.runs import STUDY, RecordedRun, Training
from medexp.core.config import comparable, differences
from medexp.core.errors import UsageError
from medexp.core.types import Metric

Methods = Mapping[str, Mapping[Training, RecordedRun]]
BUDGET = (
    "trainer.max_epochs",
    "trainer.steps_per_epoch",
    "trainer.max_steps",
    "trainer.accumulate",
    "trainer.devices",
    "trainer.num_nodes",
    "dataset.batch_size",
    "dataset.patch_size",
)
# Where the initial weights, or the order of the data, may differ because the configuration does.
_SETS_WEIGHTS = ("model", "init_from", "init_skip", "task", "dataset.source", "dataset.patch_size")
_SETS_ORDER = ("dataset", "augmentation", *BUDGET)
_SHOWN = 4
_NO_MATTER = ("seed", "fold", "overlays", "save_predictions", "callbacks", "metrics", "threads")


def check(
    methods: Methods, *, by: Sequence[str], metrics: Sequence[str], force: bool, searched: Sequence[Finding] = ()
) -> Fairness:
    """Compare what the runs recorded of themselves.

    Args:
        methods: The finished runs by method and training.
        by: Axes whose values make a method; what they set may differ.
        metrics: Names of the metrics that are compared.
        force: Go on where a fair comparison is not possible.
        searched: What was found of a search that chose the runs.

    Returns:
        The findings, errors first.

    Raises:
        UsageError: Split, data, a metric's definition, the judged part, budget, precision, initial weights or the order
            of the data differ without being what is compared, and it is not forced.
    """
    runs = [run for own in methods.values() for run in own.values()]
    findings = [
        *searched,
        *_facts(runs, metrics),
        *_budget(runs, by),
        *_by_fold(runs, by),
        *_starts(methods),
        *_within(methods),
        *_other_differences(methods, by),
        *_missing(methods),
    ]
    order = list(Level)
    fairness = Fairness(tuple(sorted(findings, key=lambda finding: order.index(finding.level))))
    errors = fairness.of(Level.ERROR)
    if errors and not force:
        told = "\n".join(f"- {finding.what}: {finding.text}" for finding in errors)
        raise UsageError(f"these runs cannot be compared fairly:\n{told}\n--force compares them and marks the report")
    return Fairness(fairness.findings, forced=bool(errors))


def changed_definitions(methods: Methods, metrics: Sequence[Metric]) -> list[Finding]:
    """Where this medexp, which aggregates the rows, defines a metric otherwise than the one that made them.

    Args:
        methods: The finished runs by method and training.
        metrics: The metrics as they are defined here.

    Returns:
        A warning for each metric that changed.
    """
    recorded = next(iter(next(iter(methods.values())).values())).record.metrics
    found = []
    for metric in metrics:
        lines = differences(recorded.get(metric.name, {}), metric.definition()) if metric.name in recorded else []
        text = f"{metric.name} is aggregated by another version than the runs': {'; '.join(lines)}" if lines else ""
        found += _finding(Level.WARNING, "metric", text)
    return found


def config_differences(methods: Methods) -> dict[str, tuple[str, ...]]:
    """Where each method's configuration differs from the first method's.

    Args:
        methods: The finished runs by method and training.

    Returns:
        `key: theirs -> own` by method; nothing for the first.
    """
    configs = {name: _config(next(iter(own.values()))) for name, own in methods.items()}
    first = next(iter(configs.values()))
    return {name: tuple(_told_once(differences(first, config))) for name, config in configs.items()}


def _config(run: RecordedRun) -> dict[str, Any]:
    config = comparable(run.config)
    return {key: value for key, value in config.items() if key not in _NO_MATTER}


def _told_once(lines: Iterable[str]) -> list[str]:
    """Without the copies of the loss that the task holds."""
    return [line for line in lines if not line.startswith("task.loss.")]


def _covered(key: str, by: Sequence[str]) -> bool:
    """Whether a key is set by an axis that is compared, so that it differs by design."""
    names = [axis.replace("/", ".") for axis in by]
    return any(key == name or key.startswith(f"{name}.") or f".{name}." in f".{key}" for name in names)


def _unequal(runs: Iterable[RecordedRun], value: Callable[[RecordedRun], Any]) -> str:
    """Which values there are and who has them, or nothing where all are equal."""
    found: dict[str, list[str]] = {}
    for run in runs:
        found.setdefault(_short(value(run)), []).append(run.state.name)
    if len(found) < 2:
        return ""
    parts = [
        f"{known} in {', '.join(names[:_SHOWN])}{f' and {len(names) - _SHOWN} more' if len(names) > _SHOWN else ''}"
        for known, names in found.items()
    ]
    return "; ".join(parts)


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 and " " not in text else text


def _finding(level: Level, what: str, text: str) -> list[Finding]:
    return [Finding(level, what, text)] if text else []


def _facts(runs: Sequence[RecordedRun], metrics: Sequence[str]) -> list[Finding]:
    """What every run records and all must share."""
    found = _finding(Level.ERROR, "part", _unequal(runs, lambda run: run.record.part))
    found += _finding(Level.ERROR, "precision", _unequal(runs, lambda run: run.record.precision))
    found += _finding(
        Level.ERROR, "checkpoint", _unequal(runs, lambda run: run.record.checkpoint.split(":")[0] or "last")
    )
    for name in metrics:
        having = [run for run in runs if name in run.record.metrics]
        if len(having) < len(runs):
            lacking = [run.state.name for run in runs if name not in run.record.metrics]
            found += _finding(Level.ERROR, "metric", f"{name} was not measured in {', '.join(lacking[:_SHOWN])}")
        changed = {
            line for run in having[1:] for line in differences(having[0].record.metrics[name], run.record.metrics[name])
        }
        found += _finding(
            Level.ERROR, "metric", f"{name} is defined otherwise: {'; '.join(sorted(changed))}" if changed else ""
        )
    for what in ("threads", "determinism"):
        found += _finding(Level.WARNING, what, _unequal(runs, attrgetter(f"record.{what}")))
    for what in ("environment", "code"):
        found += _finding(Level.WARNING, what, _changed_versions(runs, what))
    chosen = [run.state.name for run in runs if run.record.checkpoint.startswith("best")]
    if chosen:
        text = (
            f"results of {', '.join(chosen[:_SHOWN])} come from the checkpoint that was best on cases that were watched"
        )
        found += _finding(Level.WARNING, "checkpoint", text)
    return found


def _changed_versions(runs: Sequence[RecordedRun], key: str) -> str:
    first = runs[0].record.fingerprint.get(key, {})
    lines = {line for run in runs[1:] for line in differences(first, run.record.fingerprint.get(key, {}))}
    return "; ".join(sorted(_shorter(line) for line in lines))


def _shorter(line: str) -> str:
    return " ".join(_short(word) for word in line.split(" "))


def _budget(runs: Sequence[RecordedRun], by: Sequence[str]) -> list[Finding]:
    """Steps, batches and patches; where the budget is what is compared, a note."""
    found = []
    for key in BUDGET:
        text = _unequal(runs, partial(_setting, key=key))
        level = Level.NOTE if _covered(key, by) else Level.ERROR
        found += _finding(level, "budget", text and f"{key} is {text}")
    return found


def _printed(run: RecordedRun, *, what: str) -> Any:
    return run.record.fingerprint.get(what, "(not recorded)")


def _setting(run: RecordedRun, *, key: str) -> Any:
    value: Any = run.config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _by_fold(runs: Sequence[RecordedRun], by: Sequence[str]) -> list[Finding]:
    """The same split and the same data in every run of a fold."""
    found = []
    for fold in sorted({run.training[0] for run in runs}):
        own = [run for run in runs if run.training[0] == fold]
        for what in ("split", "data"):
            text = _unequal(own, partial(_printed, what=what))
            level = Level.NOTE if any(axis.startswith("dataset") for axis in by) else Level.ERROR
            found += _finding(level, what, text and f"fold {fold}: {text}")
    return found


def _starts(methods: Methods) -> list[Finding]:
    """The same initial weights and order of the data in each training, unless the configuration makes them others."""
    found = []
    first, *others = methods.values()
    for own in others:
        for training in sorted(set(first) & set(own)):
            pair = (first[training], own[training])
            keys = [line.split(":")[0] for line in differences(*map(_config, pair))]
            for what, name, sets in (
                ("initial_weights", "initial weights", _SETS_WEIGHTS),
                ("data_order", "order of the data", _SETS_ORDER),
            ):
                text = _unequal(pair, partial(_printed, what=what))
                by_design = any(key.startswith(sets) and not key.startswith("task.loss") for key in keys)
                found += _finding(Level.NOTE if by_design else Level.ERROR, name, text)
    return found


def _within(methods: Methods) -> list[Finding]:
    """All trainings of a method have one configuration."""
    found = []
    for name, own in methods.items():
        first, *others = own.values()
        lines = {line for run in others for line in differences(_config(first), _config(run))}
        found += _finding(Level.ERROR, "configuration", f"of {name}: {'; '.join(sorted(lines))}" if lines else "")
    return found


def _other_differences(methods: Methods, by: Sequence[str]) -> list[Finding]:
    """What differs between methods beside what is compared."""
    found = []
    for name, lines in config_differences(methods).items():
        beside = [line for line in lines if not _covered(line.split(":")[0], by) and line.split(":")[0] not in BUDGET]
        if STUDY in by or not beside:
            continue
        text = f"{name} and {next(iter(methods))} differ in more than {', '.join(by)}: {'; '.join(beside[:_SHOWN])}"
        more = f" and {len(beside) - _SHOWN} more" if len(beside) > _SHOWN else ""
        found += _finding(Level.WARNING, "configuration", text + more)
    return found


def _missing(methods: Methods) -> list[Finding]:
    """Trainings that some methods lack; pairs do without them."""
    every = dict.fromkeys(training for own in methods.values() for training in own)
    found = []
    for name, own in methods.items():
        lacking = [f"fold {fold}, seed {seed}" for fold, seed in every if (fold, seed) not in own]
        found += _finding(Level.WARNING, "trainings", f"{name} lacks {'; '.join(lacking)}" if lacking else "")
    return found

"""What becomes of faults: which stop a training, which are told, which are left alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from medexp.core.errors import UsageError, did_you_mean
from medexp.core.faults import Fault, Severity
from medexp.data.integrity.checks import CHECKS, Level


class Mode(StrEnum):
    """What an error does: stop the training, be told only, or leave the case out."""

    ERROR = "error"
    WARN = "warn"
    QUARANTINE = "quarantine"


@dataclass(frozen=True)
class Policy:
    """What the configuration says about faults.

    Attributes:
        mode: What an error does.
        levels: How grave the faults of some checks are, where that is not the check's own level.
    """

    mode: Mode = Mode.ERROR
    levels: Mapping[str, Level] = field(default_factory=dict)

    @classmethod
    def of(cls, integrity: str, checks: Any) -> Policy:
        """The policy of a configuration.

        Args:
            integrity: `dataset.integrity`.
            checks: `dataset.checks`, error, warning or ignore by the name of a check.

        Returns:
            The policy.

        Raises:
            UsageError: Names every word that is not known, with the nearest that is.
        """
        if not isinstance(checks, Mapping | None):
            raise UsageError(
                f"dataset.checks needs error, warning or ignore by check, as {{NAME: ignore}}, got {checks}"
            )
        levels = dict(checks or {})
        wrong = [] if integrity in list(Mode) else [_unknown("dataset.integrity", integrity, Mode)]
        for name, level in levels.items():
            if name not in CHECKS:
                wrong.append(f"dataset.checks names {name}, which is no check{did_you_mean(name, CHECKS)}")
            elif CHECKS[name].fixed:
                wrong.append(
                    f"dataset.checks.{name} cannot be changed, since such cases cannot be used; repair them, or leave "
                    f"them out with dataset.integrity=quarantine"
                )
            if level not in list(Level):
                wrong.append(_unknown(f"dataset.checks.{name}", level, Level))
        if wrong:
            raise UsageError("; ".join(wrong))
        return cls(mode=Mode(integrity), levels={name: Level(level) for name, level in levels.items()})

    def judged(self, faults: Iterable[Fault]) -> list[Fault]:
        """The faults that are told, each as grave as the policy takes it; each once."""
        told = []
        for fault in dict.fromkeys(faults):
            own = self.levels.get(fault.check)
            silent = fault.check in CHECKS and CHECKS[fault.check].level is Level.IGNORE
            level = own or (Level.IGNORE if silent else Level(fault.severity.value))
            if level is not Level.IGNORE:
                told.append(replace(fault, severity=Severity(level.value)))
        return told


def _unknown(key: str, word: object, known: type[StrEnum]) -> str:
    names = [item.value for item in known]
    return f"{key} needs {' or '.join(names)}, got {word}{did_you_mean(str(word), names)}"

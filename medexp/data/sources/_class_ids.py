"""Which label id the classes of a dataset have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from medexp.core.errors import UsageError, did_you_mean
from medexp.core.faults import Fault

BACKGROUND = "background"


class ClassIds:
    """Label id of each class name.

    Args:
        ids: Label ids by name; several names may have one id, and a class with id 0 is known and no object.

    Raises:
        UsageError: It is no mapping from names to whole numbers, or none of them is above 0.
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = {str(name): label for name, label in dict(ids).items()}
        fit = all(type(label) is int and 0 <= label < 2**16 for label in self._ids.values())
        if not fit or not any(self._ids.values()) or len(self._ids) < len(ids):
            raise UsageError(
                f"dataset.source.labels needs {{name: id}} with ids from 0 to 65535, one of them above 0, got {ids}"
            )

    @classmethod
    def numbered(cls, names: Iterable[str]) -> ClassIds:
        """Ids from 1 on in the order of the names."""
        return cls({name: label for label, name in enumerate(dict.fromkeys(names), start=1)})

    @property
    def labels(self) -> dict[int, str]:
        """Name of each label id; of several names for one id the first."""
        names = {0: BACKGROUND}
        for name, label in self._ids.items():
            if label != 0:
                names.setdefault(label, name)
        return dict(sorted(names.items()))

    @property
    def in_order(self) -> tuple[int, ...]:
        """The ids in the order of the names, those of classes that are left out too."""
        return tuple(self._ids.values())

    @property
    def first(self) -> int:
        """The first id of a class that is not left out."""
        return next(label for label in self._ids.values() if label != 0)

    def get(self, name: str) -> int | None:
        """Label id of a name; None where it is not known."""
        return self._ids.get(name)

    def unknown(self, names: Iterable[str], *, case_id: str, file: Path | None) -> tuple[Fault, ...]:
        """A fault where there are names that are not known."""
        strange = sorted(set(names) - self._ids.keys())
        if not strange:
            return ()
        remedy = f"name it in dataset.source.labels, with id 0 where it is to be left out{self._hint(strange[0])}"
        found = ", ".join(map(repr, strange[:5])) + (", ..." if len(strange) > 5 else "")
        return (Fault("unknown_label", f"classes of {', '.join(self._ids)}", found, remedy, case_id, file),)

    def _hint(self, name: str) -> str:
        return did_you_mean(name, self._ids)

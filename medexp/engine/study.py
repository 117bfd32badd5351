"""What all runs of a study share: values that `auto` stood for, resolved by the first run and pinned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock

from medexp.core.files import write_json

_FILE = "study.json"


class Study:
    """The folder of a study and its pinned values.

    Args:
        runs: Folder of all studies.
        name: Name of the study.
    """

    def __init__(self, runs: Path, name: str) -> None:
        self.name = name
        self.path = runs / quote(name, safe=" ")

    def pinned(self) -> dict[str, dict[str, Any]]:
        """Value and reason of each pinned key."""
        file = self.path / _FILE
        content: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
        return content

    def pin(self, key: str, resolve: Callable[[], tuple[Any, str]]) -> Any:
        """The study's value of a key; the first run resolves it, and two that start at once agree.

        Args:
            key: The configuration key that says "auto".
            resolve: Returns the value and the reason; called at most once per study.

        Returns:
            The value.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path / ".study.lock"):
            pinned = self.pinned()
            if key not in pinned:
                value, reason = resolve()
                pinned[key] = {"value": value, "reason": reason}
                write_json(self.path / _FILE, pinned)
            return pinned[key]["value"]

    def take_over(self, other: Study) -> None:
        """Begin with what another study has pinned."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / _FILE, other.pinned())

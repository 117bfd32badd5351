"""Names of files that have the id of a case in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from medexp.core.errors import UsageError
from medexp.data.sources._listed import composed, visible

_ID = "{id}"


class NamePattern:
    """Finds files by a name with `{id}` in it.

    Args:
        knob: Name of the knob, for errors.
        text: Path below the root such as "images/{id}cell"; without an ending any that is read will do.
        endings: Those that are read, in lower case.

    Raises:
        UsageError: There is no single `{id}` in the last part of the path.
    """

    def __init__(self, knob: str, text: str, *, endings: Sequence[str]) -> None:
        path = PurePosixPath(str(text))
        if path.name.count(_ID) != 1 or str(text).count(_ID) != 1 or path.is_absolute() or ".." in path.parts:
            raise UsageError(f"dataset.source.{knob} needs a path below root with {_ID} in its last part, got {text!r}")
        self.folder = path.parent
        self.before, self.after = path.name.split(_ID)
        has_ending = self.after.lower().endswith(tuple(endings))
        self.endings = ("",) if has_ending else tuple(sorted(endings, key=len, reverse=True))

    def find(self, root: Path) -> dict[str, list[Path]]:
        """The files with each id, in natural order; several where they differ in their ending."""
        found: dict[str, list[Path]] = {}
        for path in visible(root / self.folder):
            identity = self.identity(path.name)
            if identity:
                found.setdefault(identity, []).append(path)
        return found

    def identity(self, name: str) -> str | None:
        """The id in a file's name; None where it does not fit."""
        for ending in self.endings:
            after = (self.after + ending).lower()
            if name.startswith(self.before) and name.lower().endswith(after):
                return composed(name[len(self.before) : len(name) - len(after)]) or None
        return None

"""Hash of the code that prepares a case: a reader that was corrected must not find what it read wrongly before."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import medexp
from medexp.core.hashing import hash_file, hash_files, hash_plain
from medexp.core.types import Source
from medexp.data.derive.derived import Derivation
from medexp.data.normalisation.base import Normalisation, Scheme

_PACKAGE = Path(medexp.__file__).resolve().parent
_PREPARING = (
    "core/geometry.py",
    "core/objects.py",
    "core/resample.py",
    "data/_intensities.py",
    "data/_prepared_files.py",
    "data/annotation.py",
    "data/derive/*.py",
    "data/preprocessing.py",
    "data/normalisation/*.py",
    "data/sources/*.py",
)
_CONFIGURED = (Source, Derivation, Normalisation, Scheme)
# A container with more entries holds data, and no parts.
_MOST_PARTS = 32


def code_of(*objects: object) -> str:
    """Hash of medexp's own files that prepare cases, and of the files that define the classes of the user's objects.

    What those files import from others does not count.

    Args:
        *objects: Sources and normalisations; those that they hold count too, and steps of derivation.

    Returns:
        The hash.
    """
    files = {file for value in objects for part in _parts(value) for file in _files(type(part))}
    return hash_plain([_own_code(), *sorted(hash_file(file) for file in files if not file.is_relative_to(_PACKAGE))])


@cache
def _own_code() -> str:
    return hash_files((file for pattern in _PREPARING for file in _PACKAGE.glob(pattern)), relative_to=_PACKAGE)


def _parts(value: object) -> Iterator[object]:
    """An object, and those of the configuration that it holds, directly, by name or in a row."""
    yield value
    for held in getattr(value, "__dict__", {}).values():
        several = isinstance(held, (Mapping, tuple, list)) and len(held) <= _MOST_PARTS
        for part in (held.values() if isinstance(held, Mapping) else held) if several else (held,):
            if isinstance(part, _CONFIGURED):
                yield from _parts(part)


def _files(kind: type) -> Iterator[Path]:
    """The files that define a class and its bases, as far as they are known."""
    for base in kind.__mro__:
        if base.__module__.split(".")[0] in sys.stdlib_module_names:
            continue
        try:
            yield Path(inspect.getfile(base)).resolve()
        except (TypeError, OSError):  # typed in
            continue

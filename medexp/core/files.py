"""Writing files so that a killed process leaves the old content or the new, never half of it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and rename it.

    Args:
        path: The file to replace; its folder is made if needed.
        write: Writes the content to a binary stream.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    write_atomic(path, lambda stream: stream.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def safe_name(case_id: str) -> str:
    """A file name for a case: unsafe characters percent-encoded, a very long name cut and told apart by its hash.

    >>> safe_name("liver/012 a")
    'liver%2F012%20a'
    """
    name = quote(case_id, safe="")
    name = f"%2E{name[1:]}" if name.startswith(".") else name
    return name if len(name) <= 200 else f"{name[:180]}-{hashlib.sha256(case_id.encode()).hexdigest()[:16]}"

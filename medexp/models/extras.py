"""Packages that only some networks need."""

from __future__ import annotations

from importlib.util import find_spec

from medexp.core.errors import UsageError


def require(module: str, *, model: str) -> None:
    """Refuse a network whose package is not installed.

    Args:
        module: Top-level module of the package.
        model: Name of the option that needs it.

    Raises:
        UsageError: The module cannot be found.
    """
    if find_spec(module) is None:
        raise UsageError(f"model={model} needs {module}, which is not installed; pip install 'medexp[networks]'")

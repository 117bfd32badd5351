"""medexp: experiments on medical images, from one configuration to a recorded, comparable result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medexp.cli.composition import compose
    from medexp.engine.fit import train
    from medexp.engine.run import load_run

__version__ = "0.1.0"
__all__ = ["compose", "load_run", "train"]

_HOMES = {"compose": "medexp.cli.composition", "train": "medexp.engine.fit", "load_run": "medexp.engine.run"}


def __getattr__(name: str) -> Any:
    """Import the public functions when they are first used, so that `medexp --help` imports nothing heavy."""
    if name not in _HOMES:
        raise AttributeError(f"module 'medexp' has no attribute {name!r}; it has {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)

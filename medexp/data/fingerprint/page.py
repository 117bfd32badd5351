"""A fingerprint as one HTML file that needs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from medexp.core.files import write_text
from medexp.data.fingerprint.dataset import Fingerprint
from medexp.data.fingerprint.figures import plots

_TEMPLATE = "page.html.j2"
_NAMED = 200


def write_page(fingerprint: Fingerprint, path: Path) -> None:
    """Write the page of a fingerprint.

    Args:
        fingerprint: What is shown.
        path: The file to write.
    """
    environment = Environment(
        loader=PackageLoader("medexp.data.fingerprint", "."), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["figures"] = figures
    text = environment.get_template(_TEMPLATE).render(
        plain=fingerprint.as_plain(), unit=fingerprint.unit, plots=list(plots(fingerprint)), named=_NAMED
    )
    write_text(path, text)


def figures(value: Any) -> str:
    """A number, or a number for each axis, as one reads it.

    >>> figures([35.0, 50.25])
    '35 x 50.25'
    """
    if isinstance(value, list):
        return " x ".join(map(figures, value))
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"

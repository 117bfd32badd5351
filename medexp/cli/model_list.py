"""`medexp model list`: the networks that medexp ships."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from medexp.cli.console import console
from medexp.cli.places import conf_folder, option_names
from medexp.core.errors import UsageError

_PROBES = ({"semantic": 2}, {"objects": 2}, {"logits": 2})  # what the kinds of task ask of a network
_PATCH = 64  # passes every network, or is not looked at while it is built
_EPILOG = "A network is chosen by its name, e.g. `medexp train model=segresnet`, and shown by `medexp model show`."


def model_list(words: Sequence[str]) -> int:
    """Print the networks.

    Args:
        words: Words after `medexp model list`.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(
        prog="medexp model list",
        description="List the networks: name, 2D or 3D with the knobs as they stand, and what each is.",
        epilog=_EPILOG,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of a table")
    as_json = parser.parse_args(list(words)).json
    found = [_entry(name) for name in option_names("model", [conf_folder()])]
    if as_json:
        print(json.dumps(found, indent=2))
        return 0
    table = Table(box=None, pad_edge=False)
    for title in ("name", "dims", "what it is"):
        table.add_column(title, overflow="fold")
    for entry in found:
        dims = ", ".join(f"{n}D" for n in entry["spatial_dims"])
        refusal = "" if entry["refusal"] is None else f" ({entry['refusal'].split(';')[0]})"
        table.add_row(entry["name"], dims or "-", escape(entry["text"] + refusal))
    console().print(table)
    return 0


def _entry(name: str) -> dict[str, Any]:
    file = conf_folder() / "model" / f"{name}.yaml"
    refusals = {dims: _refusal(file, dims) for dims in (2, 3)}
    dims = [n for n, refusal in refusals.items() if refusal is None]
    return {
        "name": name,
        "text": re.split(r"[.:;] |\.$", header(file))[0],
        "spatial_dims": dims,
        "refusal": None if dims else refusals[2],
    }


def header(file: Path) -> str:
    """The comment that an option file opens with, on one line."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def _refusal(file: Path, dims: int) -> str | None:
    """Why a network cannot be built for images of so many axes, or None where it can."""
    from omegaconf import DictConfig, OmegaConf

    from medexp.core.instantiate import instantiate
    from medexp.models.adapter import build_model

    config = OmegaConf.load(file)
    assert isinstance(config, DictConfig)
    factory = instantiate(config, "model")
    told = []
    for heads in _PROBES:
        try:
            build_model(factory, spatial_dims=dims, in_channels=1, heads=heads, image_size=(_PATCH,) * dims)
        except UsageError as error:
            told.append(str(error))
        else:
            return None
    return told[0]

"""Building objects from configuration: only from modules that are trusted, with errors that name the key."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from medexp.core.errors import MedexpError, UsageError, did_you_mean

TRUSTED = (
    "medexp",
    "monai.inferers",
    "monai.losses",
    "monai.networks",
    "pytorch_lightning.callbacks",
    "timm",
    "torch.nn",
    "torch.optim",
    "torchmetrics",
    "torchvision.models",
    "torchvision.ops",
)
_user_folders: list[Path] = []


def trust_folders(folders: Iterable[str | Path]) -> None:
    """Make modules in these folders importable and trusted: the working directory, the experiment's own folder.

    They come last on the import path, so that a user's file never hides an installed package.
    """
    for folder in map(Path, folders):
        resolved = folder.resolve()
        if resolved not in _user_folders:
            _user_folders.append(resolved)
        if str(resolved) not in sys.path:
            sys.path.append(str(resolved))


def user_module_file(target: str) -> Path | None:
    """File of the user's own module that a dotted target comes from, or None if it is not in a trusted folder."""
    top = target.split(".", 1)[0]
    spec = importlib.util.find_spec(top) if top.isidentifier() else None
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin).resolve()
    if any(part in ("site-packages", "dist-packages") for part in origin.parts):
        return None
    return origin if any(origin.is_relative_to(folder) for folder in _user_folders) else None


def targets(config: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every `_target_` of a configuration, as pairs of the key that holds it and its dotted name."""
    plain = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    if isinstance(plain, dict):
        if isinstance(plain.get("_target_"), str):
            yield key, plain["_target_"]
        for name, value in plain.items():
            yield from targets(value, f"{key}.{name}".lstrip("."))
    elif isinstance(plain, list):
        for index, value in enumerate(plain):
            yield from targets(value, f"{key}[{index}]")


def check_targets(config: Any, key: str = "") -> None:
    """Raise UsageError for the first `_target_` that comes from a module without trust."""
    for where, target in targets(config, key):
        trusted = any(target == name or target.startswith(f"{name}.") for name in TRUSTED)
        if not trusted and user_module_file(target) is None:
            raise UsageError(
                f"{where}._target_ is {target}: neither one of the trusted packages ({', '.join(TRUSTED)}) nor a module "
                f"in {', '.join(map(str, _user_folders)) or 'a folder of yours'}; put the module beside the experiment "
                "file or into the working directory"
            )


def instantiate(config: DictConfig | ListConfig, key: str, **arguments: Any) -> Any:
    """Build the object that a configuration describes.

    Args:
        config: A node with `_target_`, or a list or mapping of such nodes.
        key: Where the node stands, for error messages.
        arguments: Further arguments of the outermost object; they replace keys of the same name, unbuilt.

    Returns:
        The object, or a partial where `_partial_` is set.

    Raises:
        UsageError: A target is not trusted, does not exist, or refuses its arguments.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as hydra_instantiate

    check_targets(config, key)
    try:
        if not arguments:
            return hydra_instantiate(config, _convert_="all")
        own = OmegaConf.masked_copy(config, [name for name in config if name not in arguments])
        # Interpolations of the copy still have to find the root.
        own._set_parent(config._get_parent())
        return hydra_instantiate(own, _convert_="all", _partial_=True)(**arguments)
    except (InstantiationException, TypeError) as error:
        cause = error.__cause__
        while cause is not None and not isinstance(cause, MedexpError):
            cause = cause.__cause__
        if cause is not None:
            raise cause from error
        raise UsageError(_explain(error, config, key)) from error


def _explain(error: Exception, config: Any, key: str) -> str:
    root = error.__cause__ or error
    text = str(root).strip().splitlines()[0]
    message = f"{key} cannot be built: {text}"
    if "unexpected keyword argument" in text:
        word = text.split("'")[-2]
        known = [name for name in config if not str(name).startswith("_")]
        message += did_you_mean(word, [name for name in map(str, known) if name != word])
    return message

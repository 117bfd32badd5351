"""Building objects from configuration: only from modules that are trusted, with errors that name the key."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
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
_PACKAGES = frozenset(name.split(".")[0] for name in TRUSTED)
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
    parts = target.split(".")
    # A clone of medexp may be the working directory; it is no module of the user's for that.
    if parts[0] in _PACKAGES or not _lies_in_user_folder(parts[0]):
        return None
    # The attribute's own module: `losses.focal.Focal` comes from losses/focal.py, not from losses/__init__.py.
    for end in range(max(1, len(parts) - 1), 0, -1):
        spec = _find_spec(".".join(parts[:end]))
        if spec is not None and spec.origin is not None:
            return Path(spec.origin).resolve()
    return None


def _lies_in_user_folder(top: str) -> bool:
    """Whether a top-level module lies directly in a trusted folder; an environment that lies below it does not."""
    spec = _find_spec(top)
    if spec is None:
        return False
    if spec.submodule_search_locations is not None:
        places = [Path(place).resolve() for place in spec.submodule_search_locations]
    else:
        places = [Path(spec.origin).resolve()] if spec.has_location and spec.origin else []
    return any(place.parent in _user_folders for place in places)


def _find_spec(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):  # a parent that is no package, or a name that is no module's
        return None


def targets(config: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every `_target_` of a configuration, as pairs of the key that holds it and its dotted name."""
    plain = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    if isinstance(plain, dict):
        if isinstance(plain.get("_target_"), str):
            yield key, plain["_target_"]
        for name, value in plain.items():
            yield from targets(value, f"{key}.{name!s}".lstrip("."))
    elif isinstance(plain, list):
        for index, value in enumerate(plain):
            yield from targets(value, f"{key}[{index}]")


def check_targets(config: Any, key: str = "") -> None:
    """Raise UsageError for the first `_target_` that comes from a module without trust."""
    for where, target in targets(config, key):
        found = _foreign_module(target) if _is_trusted(target) else target
        if found is not None and (found != target or user_module_file(target) is None):
            home = "" if found == target else f" comes from {found},"
            raise UsageError(
                f"{where}._target_ is {target}:{home} neither one of the trusted packages ({', '.join(TRUSTED)}) nor a "
                f"module in {', '.join(map(str, _user_folders)) or 'a folder of yours'}; put a module of your own "
                "beside the experiment file or into the working directory"
            )


def _is_trusted(name: str) -> bool:
    return any(name == trusted or name.startswith(f"{trusted}.") for trusted in TRUSTED)


def _foreign_module(target: str) -> str | None:
    """Where a name in a trusted package leads out of them (`torch.nn.functional.os.system`), or None if it does not."""
    parts = target.split(".")
    value: Any = importlib.import_module(parts[0])
    for end in range(2, len(parts) + 1):
        name = ".".join(parts[:end])
        try:
            value = getattr(value, parts[end - 1]) if hasattr(value, parts[end - 1]) else importlib.import_module(name)
        except ImportError:
            return None  # there is no such name; the builder says so
        if isinstance(value, ModuleType) and value.__name__ != name and not _is_trusted(value.__name__):
            return value.__name__
    home = getattr(value, "__module__", None)
    if (
        home is None or home == "torch" or home.startswith("torch._C") or _is_trusted(home)
    ):  # built-in, or defined there
        return None
    return str(home)


def instantiate(
    config: DictConfig | ListConfig, key: str, *, offered: Mapping[str, Any] | None = None, **arguments: Any
) -> Any:
    """Build the object that a configuration describes.

    Args:
        config: A node with `_target_`, or a list or mapping of such nodes.
        key: Where the node stands, for error messages.
        offered: Arguments that are given if the outermost object takes them.
        **arguments: Further arguments of the outermost object; they replace keys of the same name, unbuilt.

    Returns:
        The object, or a partial where `_partial_` is set.

    Raises:
        UsageError: A target is not trusted, does not exist, or refuses its arguments.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as hydra_instantiate

    check_targets(config, key)
    try:
        if offered:
            assert isinstance(config, DictConfig)
            accepted = _parameters(config["_target_"])
            arguments |= {name: value for name, value in offered.items() if name in accepted}
        if not arguments:
            return hydra_instantiate(config, _convert_="all")
        assert isinstance(config, DictConfig)
        own = OmegaConf.masked_copy(config, [str(name) for name in config if name not in arguments])
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
    lines = str(root).strip().splitlines() or [type(root).__name__]
    message = f"{key} cannot be built: {lines[0].rstrip(':')}"
    word = re.search(r"unexpected keyword argument '(\w+)'", lines[0])
    if word is not None:
        inner = re.search(r"Error in call to target '([\w.]+)'", str(error))
        message += did_you_mean(word[1], _parameters(inner[1] if inner else config["_target_"]))
    return message


def _parameters(target: str) -> list[str]:
    from hydra.utils import get_object

    return list(inspect.signature(get_object(target)).parameters)

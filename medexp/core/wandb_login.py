"""Whether Weights & Biases would find a login, by the files and variables it reads; nothing is asked of anyone."""

from __future__ import annotations

import configparser
import netrc
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


def wandb_login(*, environment: Mapping[str, str], home: Path, folder: Path) -> dict[str, Any]:
    """Whether Weights & Biases would find a login, by the files and variables it reads; the answer holds no key.

    Nothing is asked of the user or of the network.

    Args:
        environment: Environment variables.
        home: The user's home folder.
        folder: The working directory, whose `wandb/settings` overrides the user's.

    Returns:
        `logged_in`, the `source` of the login (a variable or a file), `host` and `mode`.
    """
    settings = _wandb_settings(environment, home=home, folder=folder)
    host = environment.get("WANDB_BASE_URL") or settings.get("base_url") or "https://api.wandb.ai"
    source = None
    if environment.get("WANDB_API_KEY"):
        source = "WANDB_API_KEY"
    elif environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        source = "WANDB_IDENTITY_TOKEN_FILE"
    elif (file := _netrc_file(environment, home)) and _has_password(file, urlsplit(host).netloc):
        source = str(file)
    elif settings.get("api_key"):
        source = "wandb settings"
    mode = environment.get("WANDB_MODE") or settings.get("mode") or "online"
    return {"logged_in": source is not None, "source": source, "host": host, "mode": mode}


def _wandb_settings(environment: Mapping[str, str], *, home: Path, folder: Path) -> dict[str, str]:
    configured = environment.get("WANDB_CONFIG_DIR")
    global_folder = Path(configured).expanduser() if configured else home / ".config" / "wandb"
    found: dict[str, str] = {}
    for file in (global_folder / "settings", folder / "wandb" / "settings"):
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(file, encoding="utf-8")
        except (OSError, configparser.Error, UnicodeDecodeError):
            continue
        found |= dict(parser["default"]) if parser.has_section("default") else {}
    return found


def _netrc_file(environment: Mapping[str, str], home: Path) -> Path | None:
    if named := environment.get("NETRC"):
        return Path(named).expanduser()
    return next((home / name for name in (".netrc", "_netrc") if (home / name).exists()), None)


def _has_password(file: Path, host: str) -> bool:
    """Whether a netrc file has a password for the host; its parser's errors may quote a password, so they stay here."""
    try:
        entry = netrc.netrc(str(file)).authenticators(host)
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
        return False
    return bool(entry and entry[2])

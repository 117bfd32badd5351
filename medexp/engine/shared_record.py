"""A run's record for others' eyes: enough to be compared, without paths, cases and patients under other names."""

from __future__ import annotations

import hashlib
import io
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import yaml

from medexp.core.config import comparable, is_place
from medexp.core.errors import RecordError
from medexp.core.record import Record, RunFolder, run_folder
from medexp.engine.study import Study

HIDDEN_PATH = "(path)"
# The record's texts that a user or a dataset may have written; all others come from medexp itself.
_FREE_TEXTS = ("axes", "notes", "error")
WHO = ("case_id", "group")
# Knobs that change what is shown beside the figures, and not the figures.
_NOISE = frozenset({"overlays", "pictures", "save_predictions"})
_SHOWN = "progress"


def case_salt(study: Study) -> str:
    """The study's own secret, in hexadecimal digits, that hides the ids of its cases.

    Args:
        study: The study; gets a secret where it has none.

    Returns:
        The secret.
    """
    salt: str = study.pin("case_salt", lambda: (secrets.token_hex(16), "hides the ids of cases from trackers"))
    return salt


def hashed(name: str, *, salt: str) -> str:
    """What stands for the id of a case or a patient: the same in a study, and of no use without its salt.

    Args:
        name: The id.
        salt: The study's own secret, in hexadecimal digits.

    Returns:
        Twelve hexadecimal digits.
    """
    return hashlib.blake2b(name.encode(), key=bytes.fromhex(salt), digest_size=6).hexdigest()


def for_others(config: Mapping[str, Any], *, harmless: Set[str], rename: Mapping[str, str]) -> dict[str, Any]:
    """A plain configuration for others' eyes: no paths, and ids of cases by other names, also inside of texts.

    A text with a slash or a backslash counts as a path.

    Args:
        config: Plain mappings, lists and values.
        harmless: Texts that are told as they are.
        rename: What stands for the id of each case and group.

    Returns:
        The same structure.
    """
    pattern = names_in("\0".join(_texts(config)), rename)

    def public(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {public(key): public(item) for key, item in value.items()}
        if isinstance(value, list):
            return [public(item) for item in value]
        if not isinstance(value, str) or value in harmless:
            return value
        if "/" in value or "\\" in value:
            return HIDDEN_PATH
        return value if pattern is None else pattern.sub(lambda found: rename[found[0]], value)

    told: dict[str, Any] = public(config)
    return told


def names_in(text: str, rename: Mapping[str, str]) -> re.Pattern[str] | None:
    """What finds the ids of cases and groups in a text as whole words; None where it has none of them.

    Args:
        text: The text.
        rename: What stands for the id of each case and group.

    Returns:
        A pattern of the ids that the text has, longer ones first.
    """
    present = sorted((name for name in rename if name in text), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, present))})(?!\w)") if present else None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from _texts([*value, *value.values()])
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def told_config(config: Mapping[str, Any], record: Record, *, rename: Mapping[str, str]) -> dict[str, Any]:
    """The configuration that others may know: what is computed, without places.

    Args:
        config: The resolved configuration, plain.
        record: The run's record.
        rename: What stands for the id of each case and group.

    Returns:
        The configuration with the user's overrides as `axes`, the options and the study.
    """
    options = config["options"]
    harmless = {*options.values(), *(f"val/{metric}" for metric in config["metrics"])}
    told = for_others({**comparable(config), "axes": record.axes}, harmless=harmless, rename=rename)
    return {**told, "options": options, "study": record.study}


def config_columns(told: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration makes a column in a table of runs: nothing of pictures, and nothing twice.

    Args:
        told: The configuration that others may know.

    Returns:
        Plain mappings, lists and values.
    """
    columns = {key: value for key, value in told.items() if key not in _NOISE}
    columns["task"] = _without(told["task"], told["loss"])
    columns["options"] = {key: value for key, value in told["options"].items() if not is_place(key)}
    columns["callbacks"] = {key: value for key, value in (told["callbacks"] or {}).items() if key != _SHOWN}
    return columns


def _without(config: Mapping[str, Any], part: Any) -> dict[str, Any]:
    """A configuration without a part of it that stands elsewhere."""
    kept = {key: value for key, value in config.items() if value != part}
    return {key: _without(value, part) if isinstance(value, Mapping) else value for key, value in kept.items()}


def shared_record(folder: RunFolder, *, rename: Mapping[str, str]) -> dict[str, bytes]:
    """The files of a finished run that a comparison reads, for others' eyes.

    Args:
        folder: The run.
        rename: What stands for the id of each case and group.

    Returns:
        Content by name, see `medexp.core.wandb_artifacts.RUN_FILES`.

    Raises:
        RecordError: The run cannot be read.
    """
    record = folder.read()
    config = told_config(yaml.safe_load(folder.config.read_text()), record, rename=rename)
    free = {key: value for key, value in asdict(record).items() if key in _FREE_TEXTS}
    told = {**asdict(record), **for_others(free, harmless=set(), rename=rename), "axes": config["axes"]}
    return {
        "config.yaml": yaml.safe_dump(config, sort_keys=False).encode(),
        "evidence.csv": _renamed(folder.evidence, rename),
        "cases.csv": _renamed(folder.cases, rename),
        "history.csv": folder.history.read_bytes(),
        "run.json": json.dumps(told, indent=2).encode(),
    }


def _renamed(file: Path, rename: Mapping[str, str]) -> bytes:
    """A table with cases and groups under other names, and every other cell to the letter."""
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    for column in WHO:
        table[column] = [rename[name] for name in table[column]]
    stream = io.StringIO()
    table.to_csv(stream, index=False)
    return stream.getvalue().encode()


def told_names(runs: Iterable[Path]) -> dict[str, str]:
    """What others may know the judged cases of some runs by, and their groups.

    Args:
        runs: Folders of runs; in those that were fetched, or have `tracking.case_ids=plain`, each is told as it is.

    Returns:
        A name by id; a case of two studies has its name in the first.

    Raises:
        RecordError: A run has no evidence.
    """
    names: dict[str, str] = {}
    for folder in map(RunFolder, runs):
        if not folder.evidence.exists():
            raise RecordError(f"{folder.evidence} is not there; the run has not come that far")
        evidence = pd.read_csv(folder.evidence, dtype=str, keep_default_na=False, usecols=list(WHO))
        tracking = yaml.safe_load(folder.config.read_text()).get("tracking")
        hides = tracking is not None and tracking["case_ids"] == "hashed"
        place = folder.path.resolve().parent
        salt = case_salt(Study(place.parent, unquote(place.name))) if hides else ""
        for name in pd.unique(evidence[list(WHO)].to_numpy().ravel()):
            names.setdefault(name, hashed(name, salt=salt) if hides else name)
    return names


def shared_copies(runs: Sequence[Path], place: Path) -> list[Path]:
    """Copies of finished runs for others' eyes; what is computed from them may be told as it is.

    Args:
        runs: Folders of runs.
        place: Where the copies go, each in the folder STUDY/AXES.

    Returns:
        The folders of the copies, in the order of the runs.

    Raises:
        RecordError: A run cannot be read, or has no evidence.
    """
    rename = told_names(runs)
    copies = []
    for run in runs:
        files = shared_record(RunFolder(run), rename=rename)
        told = json.loads(files["run.json"])
        copy = run_folder(place, told["study"], told["axes"]).path
        copy.mkdir(parents=True)
        for name, content in files.items():
            (copy / name).write_bytes(content)
        copies.append(copy)
    return copies

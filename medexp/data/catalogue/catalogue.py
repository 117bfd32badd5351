"""Cards of the named datasets: what each holds, under which terms, and where it is to be had."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from platformdirs import user_data_path

from medexp.core.errors import UsageError, did_you_mean
from medexp.data.catalogue._schema import UnfitCardError, read_fields

TASKS = ("semantic", "instance", "detection", "classification")
ARCHIVES = ("zip", "tar")
_CHECKSUM_LENGTHS = {"md5": 32, "sha256": 64}
_VARIABLE = "MEDEXP_DATA"
_PARTS = ("train", "val", "test", "all")
# The one in C is ten times as fast; both build plain values only.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Download:
    """A file that the owner of a dataset offers.

    Attributes:
        url: Where it is.
        checksum: `md5:...` or `sha256:...` as the owner or a kept library states it; None where none is known.
        size_bytes: Its size where it is known.
        unpack: "zip" or "tar"; None for a file that is used as it is.
        strip: Folder inside the archive whose content is taken; empty for all of it.
        into: Folder below the dataset's folder that gets the content; empty for the folder itself.
    """

    url: str
    checksum: str | None = None
    size_bytes: int | None = None
    unpack: str | None = None
    strip: str = ""
    into: str = ""

    def __post_init__(self) -> None:
        if not self.url.startswith(("https://", "http://")) or not self.file_name:
            raise UnfitCardError(f"url needs http(s) and the name of a file, got {self.url!r}")
        if self.unpack not in (None, *ARCHIVES):
            raise UnfitCardError(f"unpack needs {' or '.join(ARCHIVES)}, got {self.unpack!r}")
        method, _, digits = (self.checksum or f"md5:{'0' * 32}").partition(":")
        if len(digits) != _CHECKSUM_LENGTHS.get(method) or not set(digits) <= set("0123456789abcdef"):
            raise UnfitCardError(f"checksum needs md5: or sha256: and its hexadecimal digits, got {self.checksum!r}")

    @property
    def file_name(self) -> str:
        """Name of the file, which is the last part of the address."""
        return self.url.split("?", 1)[0].rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Manual:
    """How a user gets files that cannot be fetched.

    Attributes:
        obtain: Where they are to be had.
        layout: What must lie in the dataset's folder, a line each.
    """

    obtain: str
    layout: tuple[str, ...]


@dataclass(frozen=True)
class Citation:
    """What to cite.

    Attributes:
        text: Authors, title, journal and year.
        doi: Digital object identifier.
        arxiv: Number of the preprint.
    """

    text: str
    doi: str | None = None
    arxiv: str | None = None

    def __str__(self) -> str:
        links = [f"https://doi.org/{self.doi}"] if self.doi else []
        links += [f"https://arxiv.org/abs/{self.arxiv}"] if self.arxiv else []
        return " ".join([self.text, *links])


@dataclass(frozen=True)
class Counts:
    """How many cases and objects there should be.

    Attributes:
        cases: Cases that the preset lists, by part: train, val and test, or all where none is prescribed.
        source: Where the figures come from.
        verified: They were counted in the files themselves.
        further: Other figures by name, such as boxes of a class.
    """

    cases: Mapping[str, int]
    source: str
    verified: bool
    further: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.cases or not set(self.cases) <= set(_PARTS):
            raise UnfitCardError(f"cases needs numbers for {', '.join(_PARTS)}, got {dict(self.cases)}")

    @property
    def total(self) -> int:
        """All cases that the preset lists."""
        return sum(self.cases.values())


@dataclass(frozen=True)
class Card:
    """What is known of a dataset; its preset is the option `dataset=NAME`.

    Attributes:
        name: Name of the preset.
        title: Name as its owners write it.
        tasks: What its annotations serve: semantic, instance, detection, classification.
        spatial_dims: 2 or 3.
        licence: SPDX identifier where there is one, else the owner's terms in words.
        non_commercial: Commercial use is not allowed, or not clearly so; `medexp data fetch` asks for consent.
        citation: What to cite.
        homepage: Page of the owner.
        channels: Names of the image channels.
        classes: Name of each label id without the background.
        counts: Expected cases and objects.
        folder: Folder below the user's folder of datasets; None where nothing lies on disk.
        contains: Files and folders below `folder` that must be there.
        files: What is downloaded.
        manual: How to get the files where they cannot be fetched.
        package: Python package that brings the images.
        notes: What a user should know before using it.
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    spatial_dims: int
    licence: str
    non_commercial: bool
    citation: Citation
    homepage: str | None
    channels: tuple[str, ...]
    classes: Mapping[int, str]
    counts: Counts
    folder: str | None = None
    contains: tuple[str, ...] = ()
    files: tuple[Download, ...] = ()
    manual: Manual | None = None
    package: str | None = None
    notes: str = ""

    def __post_init__(self) -> None:
        if not self.tasks or not set(self.tasks) <= set(TASKS):
            raise UnfitCardError(f"tasks needs some of {', '.join(TASKS)}, got {', '.join(self.tasks) or 'none'}")
        if self.spatial_dims not in (2, 3):
            raise UnfitCardError(f"spatial_dims needs 2 or 3, got {self.spatial_dims}")
        ways = (bool(self.files), self.manual is not None, self.folder is None)
        if sum(ways) != 1:
            raise UnfitCardError("one of files and manual is needed, or neither where there is no folder")
        if (self.folder is None) == bool(self.contains):
            raise UnfitCardError("folder and contains go together")
        for path in (self.folder or "", *self.contains, *(file.into for file in self.files)):
            if Path(path).is_absolute() or ".." in Path(path).parts:
                raise UnfitCardError(f"paths need to stay in the folder of datasets, got {path!r}")

    @property
    def size_bytes(self) -> int | None:
        """Bytes to download, where they are known of each file."""
        sizes = [file.size_bytes for file in self.files]
        known = [size for size in sizes if size is not None]
        return sum(known) if known and len(known) == len(sizes) else None

    def place(self, home: Path) -> Path | None:
        """Where the dataset is looked for below a folder of datasets; None where nothing lies on disk."""
        return None if self.folder is None else home / self.folder

    def missing(self, home: Path) -> tuple[str, ...]:
        """What should lie in the dataset's folder and does not."""
        place = self.place(home)
        return () if place is None else tuple(path for path in self.contains if not (place / path).exists())


def data_home(environment: Mapping[str, str] = os.environ) -> Path:
    """Folder in which named datasets are looked for and into which they are fetched.

    Args:
        environment: Variables of the environment.

    Returns:
        MEDEXP_DATA, or the user's data folder where it is not set.
    """
    given = environment.get(_VARIABLE)
    return Path(given).expanduser() if given else user_data_path("medexp")


def names() -> list[str]:
    """Names of all cards, in alphabetical order."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.yaml"))


def card(name: str) -> Card:
    """The card of one dataset.

    Args:
        name: Name of its preset, or a card of the user's own (any YAML path).

    Returns:
        The card.

    Raises:
        UsageError: There is no such card, or the user's is unfit.
    """
    if Path(name).suffix in (".yaml", ".yml") and Path(name).is_file():
        return read_card(Path(name))
    known = names()
    if name not in known:
        raise UsageError(
            f"no dataset {name}{did_you_mean(name, known)}; `medexp data list` shows those that have a card"
        )
    return read_card(Path(__file__).with_name(f"{name}.yaml"))


def cards() -> list[Card]:
    """All cards, in the order of their names."""
    return [card(name) for name in names()]


def read_card(path: Path) -> Card:
    """Read a card.

    Args:
        path: YAML file with the attributes of `Card`, but for the name, which is that of the file.

    Returns:
        The card.

    Raises:
        UsageError: A key is unknown, missing, or has an unfit value.
    """
    try:
        content: Any = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
        found: Card = read_fields(Card, {"name": path.stem, **content} if isinstance(content, dict) else content)
    except (UnfitCardError, yaml.YAMLError) as error:
        raise UsageError(f"the card {path} is unfit: {error}") from error
    return found

"""dataset.json of the Medical Segmentation Decathlon and of nnU-Net, version 1 and 2.

Sources: http://medicaldecathlon.com and documentation/dataset_format.md of nnU-Net
(https://github.com/MIC-DKFZ/nnUNet). Nothing in the file is trusted: a path in it may not leave the dataset's folder.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from medexp.core.errors import DataError
from medexp.data.sources._pictures import PICTURES

IGNORE = "ignore"


@dataclass(frozen=True)
class Entry:
    """Files of one case; whether they exist is asked when it is read."""

    case_id: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class DatasetJson:
    """What dataset.json declares.

    Attributes:
        root: Folder that holds dataset.json.
        content: The parsed file.
        endings: Endings of the files that can be read.
        name: Name of the dataset, fit for a file name.
        channels: Names of the image channels, in order.
        labels: Name of each label id.
        regions: Ids of each region, where the dataset declares classes that overlap; else empty.
        ignore_index: Label id of voxels that nobody annotated; None where there is none.
    """

    root: Path
    content: Mapping[str, Any]
    endings: tuple[str, ...]
    name: str
    channels: tuple[str, ...]
    labels: Mapping[int, str]
    regions: Mapping[str, tuple[int, ...]]
    ignore_index: int | None

    @classmethod
    def read(cls, root: Path, *, endings: tuple[str, ...]) -> DatasetJson:
        """Read `root`/dataset.json; DataError where it is missing or does not declare channels and labels."""
        content = _load(root)
        name = content.get("name") if isinstance(content.get("name"), str) else ""
        labels, regions, ignore_index = _labels(content, root / "dataset.json")
        return cls(
            root=root,
            content=content,
            endings=endings,
            name=re.sub(r"[^\w-]+", "_", name or root.resolve().name).strip("_") or "dataset",
            channels=_channels(content, root / "dataset.json"),
            labels=labels,
            regions=regions,
            ignore_index=ignore_index,
        )

    def entries(self) -> list[Entry]:
        """The training cases: as listed by version 1, as found in the folders by version 2.

        DataError where the list is malformed, has a case twice, leaves the folder, or has not `numTraining` cases.
        """
        if "channel_names" not in self.content:
            entries = [self._listed(item) for item in self._required_list("training")]
        elif "dataset" in self.content:
            entries = [self._keyed(key, item) for key, item in self._required_mapping("dataset").items()]
        else:
            entries = self._found()
        self._check_ids(entries)
        return entries

    @property
    def _file(self) -> Path:
        return self.root / "dataset.json"

    def _required_list(self, key: str) -> list[Any]:
        value = self.content.get(key)
        if not isinstance(value, list) or not value:
            raise DataError(f"{self._file} needs a list of cases under {key!r}, got {_brief(value)}")
        return value

    def _required_mapping(self, key: str) -> dict[str, Any]:
        value = self.content.get(key)
        if not isinstance(value, dict) or not value:
            raise DataError(f"{self._file} needs a mapping from case to files under {key!r}, got {_brief(value)}")
        return value

    def _inside(self, text: Any) -> Path:
        """A path of the manifest below the root; links that the folder's owner made are followed as usual."""
        path = PureWindowsPath(text) if isinstance(text, str) else PureWindowsPath("/")  # splits at both / and \
        if path.anchor or ".." in path.parts or "\0" in str(text) or not path.parts:
            raise DataError(
                f"{self._file} needs paths that stay in {self.root}, got {_brief(text)}; write the path relative to "
                f"that folder, without '..'"
            )
        return self.root.joinpath(*path.parts)

    def _listed(self, item: Any) -> Entry:
        """A case of version 1; nnU-Net 1 lists `name.nii.gz` where the files are `name_0000.nii.gz`, one a channel."""
        if not isinstance(item, dict) or "image" not in item:
            raise DataError(f"{self._file} needs {{'image': ..., 'label': ...}} in 'training', got {_brief(item)}")
        image = self._inside(item["image"])
        case_id = self._case_id(image)
        label = self._inside(item["label"]) if item.get("label") else self.root / "labelsTr" / image.name
        self._case_id(label)
        per_channel = self._channel_files(image.with_name(case_id), image.name[len(case_id) :])
        split = not image.exists() and per_channel[0].exists()
        return Entry(case_id, per_channel if split else (image,), label)

    def _keyed(self, case_id: str, item: Any) -> Entry:
        """A case of version 2 whose files the manifest names."""
        if not isinstance(item, dict) or not isinstance(item.get("images"), list) or "label" not in item:
            raise DataError(f"{self._file} needs {{'images': [...], 'label': ...}} for {case_id}, got {_brief(item)}")
        images, label = tuple(map(self._inside, item["images"])), self._inside(item["label"])
        if len(images) != len(self.channels):
            raise DataError(f"{self._file} declares {len(self.channels)} channels, got {len(images)} for {case_id}")
        for path in (*images, label):
            self._case_id(path)
        return Entry(case_id, images, label)

    def _found(self) -> list[Entry]:
        """The cases of version 2, from the names in imagesTr and labelsTr; a case may lack one of its files."""
        ending = self.content.get("file_ending")
        if not isinstance(ending, str) or ending.lower() not in self.endings:
            raise DataError(
                f"{self._file} needs file_ending {' or '.join(self.endings)}, got {_brief(ending)}; convert the images"
            )
        pattern = re.compile(rf"(?P<case>.+)_(?P<channel>\d{{4}}){re.escape(ending)}", re.IGNORECASE)
        images: dict[tuple[str, int], Path] = {}
        for path in self._files_in("imagesTr", ending):
            match = pattern.fullmatch(path.name)
            if match is None or int(match["channel"]) >= len(self.channels):
                raise DataError(
                    f"{path} needs a name like case_0000{ending}, the number being one of the {len(self.channels)} "
                    f"channels in {self._file}; rename it, or declare the channel"
                )
            images[match["case"], int(match["channel"])] = path
        labels = {path.name[: -len(ending)]: path for path in self._files_in("labelsTr", ending)}
        # A picture may hold the colours that are declared as channels.
        in_one_file = ending.lower() in PICTURES and {channel for _, channel in images} == {0}
        entries = []
        for case_id in sorted({case for case, _ in images} | set(labels)):
            expected = self._channel_files(self.root / "imagesTr" / case_id, ending)[: 1 if in_one_file else None]
            files = tuple(images.get((case_id, number), path) for number, path in enumerate(expected))
            entries.append(Entry(case_id, files, labels.get(case_id, self.root / "labelsTr" / f"{case_id}{ending}")))
        return entries

    def _files_in(self, folder: str, ending: str) -> list[Path]:
        """Visible files with the ending; archives made on a Mac add hidden ones."""
        path = self.root / folder
        if not path.is_dir():
            raise DataError(f"{path} is missing; a dataset of nnU-Net has imagesTr and labelsTr beside dataset.json")
        return sorted(p for p in path.iterdir() if p.name.lower().endswith(ending.lower()) and p.name[0] != ".")

    def _channel_files(self, prefix: Path, ending: str) -> tuple[Path, ...]:
        return tuple(prefix.with_name(f"{prefix.name}_{n:04d}{ending}") for n in range(len(self.channels)))

    def _case_id(self, path: Path) -> str:
        ending = next((ending for ending in self.endings if path.name.lower().endswith(ending)), None)
        if ending is None or len(path.name) == len(ending):
            raise DataError(
                f"{self._file} needs files named *{' or *'.join(self.endings)}, got {path}; convert the file"
            )
        return path.name[: -len(ending)]

    def _check_ids(self, entries: list[Entry]) -> None:
        twice = [case_id for case_id, n in Counter(entry.case_id for entry in entries).items() if n > 1]
        if twice:
            raise DataError(f"{self._file} needs each case once, got twice: {', '.join(twice[:5])}; remove one of each")
        unfit = [entry.case_id for entry in entries if re.search(r"[/\\\0]|^\.", entry.case_id)]
        if unfit:
            raise DataError(
                f"{self._file} needs case names that are file names, got {_brief(unfit[0])}; rename the case"
            )
        declared = self.content.get("numTraining", len(entries))
        if declared != len(entries):
            raise DataError(
                f"{self._file} declares numTraining {_brief(declared)}, got {len(entries)} cases; restore what is "
                f"missing, or correct the number"
            )


def _load(root: Path) -> dict[str, Any]:
    path = root / "dataset.json"
    if not path.is_file():
        near = sorted(p.parent.name for p in root.glob("*/dataset.json")) if root.is_dir() else []
        hint = f"; there is one in {', '.join(near[:5])}: choose that folder" if near else ""
        raise DataError(f"{path} is missing; root needs to be the folder of one task or dataset, got {root}{hint}")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} should be JSON, but reading it failed ({error}); download it again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} needs a JSON object, got {_brief(content)}")
    return content


def _channels(content: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    key = "channel_names" if "channel_names" in content else "modality"
    value = content.get(key)
    numbers = [str(n) for n in range(len(value))] if isinstance(value, dict) else []
    if not isinstance(value, dict) or not value or set(value) != set(numbers):
        raise DataError(f"{path} needs channels as {{'0': name, '1': name, ...}} under {key!r}, got {_brief(value)}")
    return tuple(str(value[number]) for number in numbers)


def _labels(content: Mapping[str, Any], path: Path) -> tuple[dict[int, str], dict[str, tuple[int, ...]], int | None]:
    """Name of each id, the ids of each region, and the id of voxels that nobody annotated.

    Version 1 writes {id: name}, version 2 {name: id or ids}.
    """
    value = content.get("labels")
    if not isinstance(value, dict) or not value:
        raise DataError(f"{path} needs a mapping under 'labels', got {_brief(value)}")
    by_id = all(key.isdecimal() for key in value)
    pairs = [(str(name), number) for number, name in value.items()] if by_id else list(value.items())
    ids = {name: _ids(number, path) for name, number in pairs}
    ignored = ids.get(IGNORE)
    if ignored is not None and (len(ignored) > 1 or ignored == (0,)):
        raise DataError(f"{path} needs one id above 0 for {IGNORE!r}, got {list(ignored)}")
    named = [(number[0], name) for name, number in ids.items() if len(number) == 1]
    labels = {number: f"label_{number}" for numbers in ids.values() for number in numbers} | dict(named)
    if len(ids) != len(value) or len(dict(named)) != len(named) or 0 not in labels:
        raise DataError(f"{path} needs one name per label id and an id 0 for the background, got {_brief(value)}")
    overlapping = any(len(number) > 1 for number in ids.values())
    regions = {name: number for name, number in ids.items() if number not in ((0,), ignored)} if overlapping else {}
    return dict(sorted(labels.items())), regions, None if ignored is None else ignored[0]


def _ids(value: Any, path: Path) -> tuple[int, ...]:
    """One id or several, as a number, its digits, or a list of numbers."""
    items = value if isinstance(value, list) else [value]
    digits = [str(item) for item in items]
    if not digits or not all(re.fullmatch(r"[0-9]{1,5}", text) for text in digits):
        raise DataError(f"{path} needs label ids that are whole numbers from 0 to 99999, got {_brief(value)}")
    return tuple(int(text) for text in digits)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

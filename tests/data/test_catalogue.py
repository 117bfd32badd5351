from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from medexp.core.errors import UsageError
from medexp.data.catalogue.catalogue import Card, card, cards, data_home, names, read_card

ROOT = Path(__file__).parents[2]
CARD = """
title: Toy
tasks: [semantic]
spatial_dims: 2
licence: CC0-1.0
non_commercial: false
citation:
  text: Nobody, 2020.
homepage: null
channels: [intensity]
classes:
  1: organ
counts:
  cases: {train: 3, test: 2}
  source: drawn
  verified: true
folder: toy
contains: [images]
files:
  - url: https://example.org/a/toy.zip?download=1
    checksum: md5:00000000000000000000000000000000
    unpack: zip
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "toy.yaml"
    path.write_text(text)
    return path


def test_a_card_is_read_with_its_defaults(tmp_path: Path) -> None:
    read = read_card(written(tmp_path, CARD))
    assert (read.name, read.tasks, read.classes) == ("toy", ("semantic",), {1: "organ"})
    assert (read.counts.total, read.size_bytes, read.manual) == (5, None, None)
    assert (read.files[0].file_name, read.files[0].strip) == ("toy.zip", "")
    assert read.place(tmp_path) == tmp_path / "toy"
    assert read.missing(tmp_path) == ("images",)
    (tmp_path / "toy/images").mkdir(parents=True)
    assert read.missing(tmp_path) == ()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("licence:", "license:", "no key license; did you mean licence"),
        ("    unpack: zip", "    unpak: zip", r"no key files\[0\]\.unpak; did you mean unpack"),
        ("title: Toy\n", "", "title needs a value"),
        ("  source: drawn\n", "", r"counts\.source needs a value"),
        ("spatial_dims: 2", "spatial_dims: 2.0", r"spatial_dims needs int, got 2\.0"),
        ("spatial_dims: 2", "spatial_dims: 4", "needs 2 or 3, got 4"),
        ("non_commercial: false", "non_commercial: 0", "non_commercial needs bool, got 0"),
        ("tasks: [semantic]", "tasks: semantic", "tasks needs list, got 'semantic'"),
        ("tasks: [semantic]", "tasks: [segmentation]", "tasks needs some of"),
        ("  1: organ", "  one: organ", "classes needs int, got 'one'"),
        ("{train: 3, test: 2}", "{train: many}", r"counts\.cases\.train needs int"),
        ("{train: 3, test: 2}", "{training: 3}", "cases needs numbers for train"),
        ("md5:0000", "md5:", "checksum needs md5: or sha256:"),
        ("checksum: md5", "checksum: crc", "checksum needs md5: or sha256:"),
        ("https://", "file://", r"url needs http\(s\)"),
        ("unpack: zip", "unpack: rar", "unpack needs zip or tar"),
        ("folder: toy", "folder: ../toy", "paths need to stay"),
        ("[images]", "[/etc/passwd]", "paths need to stay"),
        ("contains: [images]\n", "", "folder and contains go together"),
        ("folder: toy", "folder: toy\nmanual: {obtain: somewhere, layout: [images]}", "one of files and manual"),
        ("citation:\n  text: Nobody, 2020.", "citation: Nobody", "citation needs keys and values"),
        ("title: Toy", "title: [", "while parsing"),
        (CARD, "- a list", "a card needs keys and values"),
        ("title: Toy", "title: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    ],
)
def test_an_unfit_card_is_refused_with_its_file_and_key(tmp_path: Path, old: str, new: str, reason: str) -> None:
    assert old in CARD
    with pytest.raises(UsageError, match=reason) as caught:
        read_card(written(tmp_path, CARD.replace(old, new)))
    assert "toy.yaml" in str(caught.value)


def test_a_name_that_is_not_known_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no dataset brestmnist; did you mean breastmnist"):
        card("brestmnist")


def test_a_card_of_the_users_own_is_read_from_its_file(tmp_path: Path) -> None:
    assert card(str(written(tmp_path, CARD))).title == "Toy"


def test_the_folder_of_datasets_is_that_of_the_variable_or_the_users(tmp_path: Path) -> None:
    assert data_home({"MEDEXP_DATA": str(tmp_path)}) == tmp_path
    assert data_home({"MEDEXP_DATA": ""}).name == "medexp"
    assert data_home({}).is_absolute()


@pytest.mark.parametrize("name", names())
def test_each_card_is_fit_and_says_how_to_get_and_to_cite_the_data(name: str) -> None:
    read = card(name)
    assert read.name == name
    assert read.counts.source
    assert read.channels
    assert read.classes
    if read.folder is not None:
        assert read.homepage
        assert re.search(r"\b(19|20)\d\d\b", read.citation.text)
    if re.search(r"-NC\b|-NC-|research", read.licence):
        assert read.non_commercial
    for file in read.files:
        assert file.url.startswith(("https://", "http://"))


def test_no_two_datasets_lie_in_each_others_way() -> None:
    wholes = [read.folder for read in cards() if read.folder and any(file.unpack for file in read.files)]
    assert len(wholes) == len(set(wholes))
    places = [f"{read.folder}/{item}" for read in cards() for item in read.contains]
    assert len(places) == len(set(places))


def test_addresses_and_checksums_of_the_decathlon_are_those_of_monai() -> None:
    spec = importlib.util.find_spec("monai")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / "apps/datasets.py").read_text())
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and isinstance(node.targets[0], ast.Name)
    }
    found = [read.files[0] for read in cards() if read.name.startswith("msd_task")]
    assert {file.strip: file.url for file in found} == tables["resource"]
    assert {file.strip: file.checksum for file in found} == {task: f"md5:{md5}" for task, md5 in tables["md5"].items()}


def test_facts_of_medmnist_are_those_of_its_package() -> None:
    medmnist = pytest.importorskip("medmnist", reason="needs medmnist, which is no dependency")
    info = medmnist.INFO
    found = {read.name: read for read in cards() if read.folder == "medmnist"}
    assert set(found) == set(info)
    for name, read in found.items():
        facts = info[name]
        assert (read.files[0].url, read.files[0].checksum) == (facts["url"], f"md5:{facts['MD5']}")
        assert dict(read.counts.cases) == facts["n_samples"]
        assert list(read.classes.values()) == list(facts["label"].values())
        assert len(read.channels) == facts["n_channels"]
        assert read.licence == facts["license"].replace(" ", "-")
        assert read.non_commercial == ("NC" in facts["license"])


def test_cards_are_read_without_anything_heavy() -> None:
    probe = (
        "import sys; from medexp.data.catalogue.catalogue import cards; cards();"
        "print([name for name in ('torch', 'pandas', 'numpy', 'hydra') if name in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", probe], text=True).strip() == "[]"


def test_the_page_of_datasets_is_that_of_the_cards() -> None:
    from medexp.data.catalogue.page import markdown

    written = (ROOT / "docs/datasets.md").read_text(encoding="utf-8")
    assert written == markdown(cards()), "write it anew: python -m medexp.data.catalogue.page > docs/datasets.md"


def test_the_wheel_holds_the_cards(tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder

    built = next(iter(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])))
    inside = set(zipfile.ZipFile(built).namelist())
    assert {f"medexp/data/catalogue/{name}.yaml" for name in names()} <= inside


def test_yaml_and_json_of_a_card_agree(tmp_path: Path) -> None:
    """Both are read by the same rules, so a card may be written by a program."""
    as_json = written(tmp_path, CARD)
    as_json.write_text(json.dumps(yaml.safe_load(CARD) | {"classes": {}, "notes": "x"}))
    read: Card = read_card(as_json)
    assert (read.title, read.notes) == ("Toy", "x")

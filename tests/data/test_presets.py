from __future__ import annotations

import inspect
import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

import medexp
from medexp.cli.composition import finish
from medexp.cli.places import conf_folder, option_names
from medexp.core.config import plain
from medexp.core.instantiate import instantiate
from medexp.core.types import Case, Source
from medexp.data.catalogue.catalogue import Card, card, names

CONF = conf_folder() / "dataset"
# Options for a user's own files in a layout, and layouts of sets that nobody has released.
FORMATS = {
    "coco",
    "dicom",
    "folder",
    "manifest",
    "medmnist",
    "msd",
    "nnunet",
    "object_masks",
    "points",
    "tracks",
    "voc",
}
UNRELEASED = {"liver_lung_xray", "taiwan_white_matter"}


def composed(name: str, *overrides: str) -> DictConfig:
    return medexp.compose(None, [f"dataset={name}", *overrides])


@cache
def contents() -> DictConfig:
    """Every preset by its name as Hydra composes it; at once, since one composition takes its time."""
    with initialize_config_dir(config_dir=str(conf_folder()), version_base="1.3", job_name="test"):
        return hydra_compose(overrides=[f"+dataset@{name}={name}" for name in names()])


@cache
def preset(name: str) -> DictConfig:
    """A whole configuration with the preset, and /data as the folder of datasets."""
    config = medexp.compose(None, ["paths.data=/data"])
    config.dataset = contents()[name]
    return finish(config, axes={})


def built(name: str, *overrides: str) -> Source:
    source: Source = instantiate(composed(name, *overrides).dataset.source, "dataset.source")
    return source


def listed(name: str, home: Path, cache: Path) -> tuple[Source, list[Case]]:
    source = built(name, f"paths.data={home}", f"paths.cache={cache}")
    return source, source.cases()


def by_part(cases: list[Case]) -> dict[str, int]:
    return dict(Counter(case.split or "all" for case in cases))


def test_each_card_has_a_preset_and_each_preset_a_card() -> None:
    presets = set(option_names("dataset", [conf_folder()])) - FORMATS - UNRELEASED
    assert presets == set(names())


@pytest.mark.parametrize("name", names())
def test_each_preset_composes_and_looks_where_its_card_says(name: str) -> None:
    config, read = preset(name), card(name)
    root = config.dataset.root
    assert (None if root is None else Path(root)) == read.place(Path("/data"))
    assert len(config.dataset.patch_size) == config.dataset.source.get("spatial_dims", read.spatial_dims)
    knobs = plain(config.dataset.source)
    module, _, class_name = knobs.pop("_target_").rpartition(".")
    assert set(knobs) == set(inspect.signature(getattr(import_module(module), class_name)).parameters)
    if read.folder is not None and "public" in knobs and knobs["public"]:
        assert not read.non_commercial


@pytest.mark.parametrize(
    "name", [name if name == "bccd" else pytest.param(name, marks=pytest.mark.soak) for name in names()]
)
def test_a_preset_is_composed_alone_as_together_with_the_others(name: str) -> None:
    assert composed(name, "paths.data=/data").dataset == preset(name).dataset


@pytest.mark.parametrize("name", [name for name in names() if card(name).folder == "medmnist"])
def test_presets_of_medmnist_name_the_classes_of_the_card(name: str) -> None:
    source = preset(name).dataset.source
    assert list(source.class_names) == list(card(name).classes.values())
    assert source.file == card(name).contains[0]
    assert source.get("spatial_dims", 2) == card(name).spatial_dims


def test_the_folder_of_datasets_is_the_users_unless_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from medexp.data.catalogue.catalogue import data_home

    monkeypatch.delenv("MEDEXP_DATA", raising=False)
    assert Path(composed("bccd").dataset.root) == data_home() / "bccd"
    monkeypatch.setenv("MEDEXP_DATA", str(tmp_path))
    assert Path(composed("bccd").dataset.root) == tmp_path / "bccd" == data_home() / "bccd"
    assert composed("bccd", "dataset.root=elsewhere").dataset.source.root == "elsewhere"


def test_another_split_can_be_chosen_for_a_preset_with_parts_of_its_own() -> None:
    assert composed("bccd").dataset.split._target_.endswith("Prescribed")
    assert composed("bccd", "dataset/split=kfold").dataset.split._target_.endswith("KFold")


@pytest.mark.parametrize("name", [name for name in names() if card(name).folder is None])
def test_what_is_drawn_has_the_counts_and_names_of_its_card(name: str, tmp_path: Path) -> None:
    read = card(name)
    if read.package is not None:
        pytest.importorskip(read.package, reason=f"needs {read.package}, the extra 'demo'")
    source, cases = built_small(name, tmp_path), preset(name).dataset.source.get("n_cases")
    expected = len(source.cases()) if cases is None else cases
    assert read.counts.total == expected
    assert_names(source, read)


def built_small(name: str, tmp_path: Path) -> Source:
    """The source; of generated ones with two cases, since drawing all takes seconds."""
    generated = "n_cases" in preset(name).dataset.source
    return built(name, f"paths.cache={tmp_path}", *(["dataset.source.n_cases=2"] if generated else []))


def assert_names(source: Source, read: Card) -> None:
    assert source.spatial_dims == read.spatial_dims
    assert source.channels == read.channels
    ids = {label_id: label for label_id, label in source.labels.items() if label_id in read.classes}
    assert ids == dict(read.classes)


REAL = ("msd_task04_hippocampus", "vgg_cells", "breastmnist", "dsb2018_fluorescence", "bccd")


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_real_sets_have_the_counts_and_names_of_their_cards(
    name: str, shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    read = card(name)
    home = shared_data(str(read.folder)).parent
    source, cases = listed(name, home, tmp_path)
    assert by_part(cases) == vgg_parts(read.counts.cases) if name == "vgg_cells" else dict(read.counts.cases)
    assert not [fault for case in cases for fault in case.faults]
    assert_names(source, read)
    image = source.read(cases[0])
    assert len(image.pixels) == len(read.channels)
    assert image.annotation is not None


def vgg_parts(counts: Any) -> dict[str, int]:
    """The source leaves the part of the first 100 to the split, which draws from them."""
    return {"all" if part == "train" else part: number for part, number in counts.items()}


@pytest.mark.real_data
def test_hippocampus_has_all_labels_in_each_case(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    source, cases = listed("msd_task04_hippocampus", shared_data("msd_task04_hippocampus").parent, tmp_path)
    for case in cases[::26]:
        annotation = source.read(case).annotation
        assert annotation is not None
        assert annotation.mask is not None
        assert set(annotation.mask.ravel()) == {0, 1, 2}


@pytest.mark.real_data
def test_breastmnist_has_the_classes_of_its_card(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    _, cases = listed("breastmnist", shared_data("medmnist").parent, tmp_path)
    found = Counter((case.split, case.facts["labels"][0]) for case in cases)
    further = card("breastmnist").counts.further
    for part in ("train", "val", "test"):
        assert found[part, 0] == further[f"malignant, {part}"]
        assert found[part, 1] == further[f"normal or benign, {part}"]


@pytest.mark.real_data
def test_bccd_has_the_boxes_of_its_card(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    source, cases = listed("bccd", shared_data("bccd").parent, tmp_path)
    objects = [source.read(case).annotation.objects for case in cases]  # type: ignore[union-attr]
    found = Counter(source.labels[int(label)] for item in objects for label in item.labels)
    further = dict(card("bccd").counts.further)
    empty = sum(int((item.boxes[:, :2] >= item.boxes[:, 2:]).any(axis=1).sum()) for item in objects)
    assert empty == further.pop("boxes of zero size")
    assert found == further


@pytest.mark.real_data
def test_vgg_cells_has_the_cells_of_its_card(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    source, cases = listed("vgg_cells", shared_data("vgg_cells").parent, tmp_path)
    numbers = [len(source.read(case).annotation.objects.labels) for case in cases]  # type: ignore[union-attr]
    mean = sum(numbers) / len(numbers)
    spread = (sum((number - mean) ** 2 for number in numbers) / len(numbers)) ** 0.5
    assert (round(mean), round(spread)) == (176, 61)


@pytest.mark.slow
@pytest.mark.real_data
def test_nih_chest_xray_has_the_counts_of_its_card(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    home = shared_data("nih_chest_xray").parent
    read = card("nih_chest_xray")
    source = built("nih_chest_xray", f"paths.data={home}", "dataset.source.only_present=false")
    cases = source.cases()
    further = dict(read.counts.further)
    assert len(cases) == read.counts.total
    assert len({case.group for case in cases}) == further["patients"]
    assert by_part(cases)["test"] == read.counts.cases["test"]
    assert_names(source, read)


@pytest.mark.real_data
def test_the_sequence_of_simulated_nuclei_is_listed(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    home = shared_data("ctc").parent
    further = card("ctc_fluo_n2dh_sim").counts.further
    source, cases = listed("ctc_fluo_n2dh_sim", home, tmp_path)
    first = [case for case in cases if case.facts["sequence"] == "01"]
    assert len(first) == further["frames of sequence 01"]
    assert_names(source, card("ctc_fluo_n2dh_sim"))


def test_presets_by_hand_read_the_layout_that_their_cards_describe(tmp_path: Path) -> None:
    picture = np.full((8, 9, 3), 100, np.uint8)
    vessel = np.zeros((8, 9), np.uint8)
    vessel[2:4] = 255
    for folder in ("images", "1st_manual", "mask"):
        (tmp_path / "drive/training" / folder).mkdir(parents=True)
    Image.fromarray(picture).save(tmp_path / "drive/training/images/21_training.tif")
    Image.fromarray(vessel).save(tmp_path / "drive/training/1st_manual/21_manual1.gif")
    source, cases = listed("drive", tmp_path, tmp_path / "cache")
    assert [case.case_id for case in cases] == ["21"]
    mask = source.read(cases[0]).annotation.mask  # type: ignore[union-attr]
    np.testing.assert_array_equal(mask, vessel > 0)


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("luna16", 'case_id,image,boxes,fold\na,subset3/a.mhd,"[[1, 2, 3, 4, 6, 8]]",3\n'),
        ("deeplesion", 'case_id,image,boxes,group,split\na,images/a.tif,"[[1, 2, 4, 6]]",7,val\n'),
    ],
)
def test_a_manifest_as_the_card_describes_it_gives_boxes(name: str, row: str, tmp_path: Path) -> None:
    home = tmp_path / name
    dims = card(name).spatial_dims
    (home / "subset3").mkdir(parents=True)
    (home / "images").mkdir()
    (home / "manifest.csv").write_text(row)
    volume = np.arange(10 * 11 * 12, dtype=np.int16).reshape(12, 11, 10)  # z, y, x
    if dims == 3:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume), str(home / "subset3/a.mhd"))
    else:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume[0]), str(home / "images/a.tif"))
    source, cases = listed(name, tmp_path, tmp_path / "cache")
    read = source.read(cases[0])
    assert read.annotation is not None
    assert read.annotation.objects is not None
    # x runs along the first axis of a volume, and along the columns of a picture
    assert read.annotation.objects.boxes.tolist() == [[1, 2, 3, 4, 6, 8] if dims == 3 else [2, 1, 6, 4]]
    assert (cases[0].fold, cases[0].split) == ((3, None) if dims == 3 else (None, "val"))


@pytest.mark.parametrize("name", ["acdc", "btcv"])
def test_a_folder_of_nnunet_as_the_card_describes_it_is_read(name: str, tmp_path: Path) -> None:
    home, read = tmp_path / name, card(name)
    labels = {"background": 0, **{label: label_id for label_id, label in read.classes.items()}}
    (home / "imagesTr").mkdir(parents=True)
    (home / "labelsTr").mkdir()
    case = "patient001_frame01" if name == "acdc" else "img0001"
    declared = {"channel_names": {"0": read.channels[0]}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    (home / "dataset.json").write_text(json.dumps(declared))
    voxels = np.arange(4 * 5 * 6, dtype=np.int16).reshape(6, 5, 4) % len(labels)
    for path in (home / f"imagesTr/{case}_0000.nii.gz", home / f"labelsTr/{case}.nii.gz"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(path))
    source, cases = listed(name, tmp_path, tmp_path / "cache")
    assert_names(source, read)
    assert cases[0].group == ("patient001" if name == "acdc" else case)
    np.testing.assert_array_equal(source.read(cases[0]).annotation.mask, voxels.T)  # type: ignore[union-attr]

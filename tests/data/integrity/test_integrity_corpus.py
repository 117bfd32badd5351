"""`medexp data check` finds every bad input of a generated corpus, and names all of them in one pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bad_dicom
import bad_nnunet
import bad_pictures
import bad_tables
import bad_volumes
import pytest
from planted import Planted

from medexp.cli.composition import compose
from medexp.cli.data_check import data_check
from medexp.core.instantiate import instantiate
from medexp.data.integrity import Training, check_dataset
from medexp.data.integrity.listing import listing_faults
from medexp.data.sources.folder import Folder
from medexp.data.sources.medmnist import MedMNIST
from medexp.data.splits import Prescribed

MSD = "dataset=msd dataset.patch_size=[16,16,8]"
PICTURES = "dataset.patch_size=[48,64] dataset.split.n_folds=2"
FOLDER = f"dataset=folder {PICTURES}"
CENTRES = "dataset.source.point_files=centres.csv dataset.source.image_column=image"
TABLE = (
    f"dataset=manifest {PICTURES} dataset.source.manifest=table.csv dataset.source.mask=mask "
    "dataset.source.group=patient dataset.source.split=split dataset.source.label=finding "
    "dataset.source.labels={0:none,1:fibrosis}"
)
DOTS = f"dataset=points {PICTURES} {CENTRES} dataset.source.delimiter=';'"
CORPUS = [
    (bad_volumes.decathlon, MSD),
    (bad_volumes.decathlon_with_a_case_twice, MSD),
    (bad_volumes.decathlon_that_leaves_its_folder, MSD),
    (bad_volumes.decathlon_with_a_rare_class, MSD),
    (bad_nnunet.two_modalities, MSD),
    (bad_nnunet.other_grids, "dataset=nnunet dataset.patch_size=[16,16,8]"),
    (
        bad_dicom.dicom,
        "dataset=dicom dataset.patch_size=[16,16,8] dataset.source.one_series_per_folder=true "
        "dataset.source.unannotated=list +dataset.checks.unannotated=ignore",
    ),
    (
        bad_pictures.voc,
        f"dataset=voc {PICTURES} dataset.source.channels=[grey] dataset.source.labels={{cell:1}} "
        "dataset.source.group_pattern='^(p7|.*)'",
    ),
    (bad_pictures.folder, FOLDER),
    (
        bad_pictures.instance_maps,
        "dataset=folder dataset.patch_size=[128,128] dataset.source.mask_folder=null "
        "dataset.source.instance_folder=instances",
    ),
    (bad_pictures.object_masks, f"dataset=object_masks {PICTURES}"),
    (bad_pictures.coco, f"dataset=coco {PICTURES} dataset.source.channels=[grey]"),
    (bad_pictures.dots, DOTS),
    (bad_pictures.dots_with_another_delimiter, DOTS),
    (bad_pictures.dots_in_another_encoding, DOTS),
    (bad_pictures.medmnist_with_objects, "dataset=medmnist dataset.patch_size=[32,32]"),
    (bad_pictures.medmnist_with_a_leak, "dataset=medmnist dataset.patch_size=[24,24] dataset/split=prescribed"),
    (bad_pictures.tracks, f"dataset=tracks {PICTURES}"),
    (bad_tables.table, TABLE),
    (bad_tables.table_with_another_delimiter, TABLE),
    (bad_tables.table_in_another_encoding, TABLE),
    (bad_tables.table_with_links, TABLE),
    (
        bad_tables.boxes_in_volumes,
        "dataset=manifest dataset.patch_size=[16,16,8] dataset.source.manifest=table.jsonl "
        "dataset.source.spatial_dims=3 dataset.source.channels={CT:image} dataset.source.boxes=boxes",
    ),
]


@pytest.fixture
def report_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Checks a folder by the command; gives its report as JSON."""
    monkeypatch.setenv("MEDEXP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def check(root: Path, overrides: str) -> dict[str, Any]:
        code = data_check([*overrides.split(), f"dataset.root='{root}'", "--json", "report.json"])
        report = json.loads(Path("report.json").read_text())
        assert code == (1 if report["errors"] else 0)
        return report

    return check


@pytest.mark.parametrize(("plant", "overrides"), CORPUS, ids=[plant.__name__ for plant, _ in CORPUS])
def test_every_planted_fault_is_named_and_no_sound_case_is_an_error(
    plant: Callable[[Path], list[Planted]], overrides: str, report_of: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    planted = plant(tmp_path / "data ä 1")
    report = report_of(tmp_path / "data ä 1", overrides)
    assert [one.what for one in planted if not one.is_named(report["faults"])] == []
    spoilt = {one.case_id for one in planted}
    assert [
        fault for fault in report["faults"] if fault["severity"] == "error" and fault["case_id"] not in spoilt
    ] == []


@pytest.mark.soak
def test_ten_thousand_files_in_one_folder_are_listed_and_told_apart(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for number in range(10_000):
            (tmp_path / folder / f"{number}.png").touch()
    (tmp_path / "masks" / "77.png").unlink()
    source = Folder(root=tmp_path)
    cases = source.cases()
    assert len(cases) == 10_000
    assert list(listing_faults(cases)) == []
    assert [(fault.check, fault.case_id) for case in cases for fault in case.faults] == [("missing_label", "77")]


# What is wrong with the real sets by their own documentation, and nothing else.
REAL = {
    "msd_task04_hippocampus": ("msd_task04_hippocampus", 260, []),
    "dsb2018_fluorescence": ("dsb2018_fluorescence", 541, []),
    "bccd": ("bccd", 364, [("box_without_extent", "BloodImage_00338"), ("box_without_extent", "BloodImage_00343")]),
    "breastmnist": ("medmnist", 780, []),
    "vgg_cells": ("vgg_cells", 200, []),
    "ctc_fluo_n2dh_sim": ("ctc/Fluo-N2DH-SIM+", 65, []),
    "nih_chest_xray": ("nih_chest_xray", 12, []),
}

LONG = ("bccd", "dsb2018_fluorescence")


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.soak) if name in LONG else name for name in REAL]
)
def test_real_sets_have_no_error_but_those_that_are_known(
    name: str, shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, n_cases, known = REAL[name]
    config = compose(None, [f"dataset={name}", f"dataset.root='{shared_data(folder)}'", f"paths.cache='{tmp_path}'"])
    source = instantiate(config.dataset.source, "dataset.source")
    report = check_dataset(source, training=Training(patch_size=tuple(config.dataset.patch_size)))
    assert len(report.cases) == n_cases
    assert [(fault.check, fault.case_id) for fault in report.errors] == known


@pytest.mark.real_data
def test_the_test_image_of_breastmnist_that_is_a_training_image_is_told(
    shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    source = MedMNIST(root=shared_data("medmnist"), cache_dir=tmp_path)
    report = check_dataset(source, split=Prescribed())
    assert report.errors == ()
    assert [(fault.check, fault.case_id) for fault in report.warnings] == [("leaked_image", "train_115")]
    assert "test_076 in test" in report.warnings[0].found

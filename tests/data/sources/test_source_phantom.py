from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from medexp.core.errors import DataError, UsageError
from medexp.data.sources import phantom
from medexp.data.sources.phantom import Phantom

FLAT: dict[str, Any] = {"spatial_dims": 2, "n_cases": 3, "shape": [48, 40], "spacing_mm": [1.0, 1.2]}
SOLID: dict[str, Any] = {"spatial_dims": 3, "n_cases": 2, "shape": [32, 28, 20], "spacing_mm": [1.0, 1.0, 2.0]}


def masks(source: Phantom) -> list[np.ndarray]:
    return [source.read(case).annotation.mask for case in source.cases()]


def pixels(source: Phantom) -> list[np.ndarray]:
    return [source.read(case).pixels for case in source.cases()]


def contents(source: Phantom) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in source.folder.iterdir()}


def draw_in_another_process(cache_dir: Path, order: str) -> subprocess.Popen[bytes]:
    code = (
        "from medexp.data.sources import phantom\n"
        f"source = phantom.Phantom(cache_dir={str(cache_dir)!r}, **{FLAT})\n"
        f"for index in {order}:\n"
        "    phantom._write_case(source.folder / f'case_{index:04d}.npz', source.recipe, index)\n"
    )
    return subprocess.Popen([sys.executable, "-c", code])


@pytest.mark.parametrize("knobs", [FLAT, SOLID], ids=["2d", "3d"])
def test_image_and_mask_share_the_declared_grid(tmp_path: Path, knobs: dict[str, Any]) -> None:
    source = Phantom(cache_dir=tmp_path, n_channels=2, **knobs)
    image = source.read(source.cases()[0])
    assert image.pixels.shape == (2, *knobs["shape"])
    assert image.pixels.dtype == np.float32
    assert image.annotation.mask.shape == tuple(knobs["shape"])
    assert image.geometry.spacing_mm == tuple(knobs["spacing_mm"])
    assert len(source.channels) == 2


@pytest.mark.parametrize("knobs", [FLAT, SOLID], ids=["2d", "3d"])
def test_every_case_has_body_and_organ_in_one_piece_and_only_declared_labels(
    tmp_path: Path, knobs: dict[str, Any]
) -> None:
    source = Phantom(cache_dir=tmp_path, **knobs | {"n_cases": 8})
    for mask in masks(source):
        assert set(np.unique(mask)) <= set(source.labels)
        assert {0, 1} <= set(np.unique(mask))
        assert ndimage.label(mask > 0)[1] == 1


@pytest.mark.parametrize("knobs", [FLAT, SOLID], ids=["2d", "3d"])
def test_lesions_lie_inside_the_organ(tmp_path: Path, knobs: dict[str, Any]) -> None:
    for mask in masks(Phantom(cache_dir=tmp_path, lesion_free=0.0, **knobs | {"n_cases": 8})):
        lesion = mask == 2
        assert lesion.any()
        assert (mask[ndimage.binary_dilation(lesion)] > 0).all()


@pytest.mark.parametrize(("share", "fewest", "most"), [(0.0, 0, 0), (0.25, 8, 12), (1.0, 40, 40)])
def test_share_of_cases_without_lesion(tmp_path: Path, share: float, fewest: int, most: int) -> None:
    source = Phantom(cache_dir=tmp_path, lesion_free=share, **FLAT | {"n_cases": 40})
    assert fewest <= sum(not (mask == 2).any() for mask in masks(source)) <= most


def test_lesions_are_round_in_millimetres_not_in_voxels(tmp_path: Path) -> None:
    knobs = {"spatial_dims": 2, "n_cases": 30, "shape": [64, 32], "spacing_mm": [1.0, 2.0], "max_lesions": 1}
    source = Phantom(cache_dir=tmp_path, lesion_free=0.0, lesion_radius_mm=[6.0, 6.0], **knobs)
    extents = np.array([[np.ptp(axis) + 1 for axis in np.nonzero(mask == 2)] for mask in masks(source)])
    rows, columns = extents.mean(axis=0)
    assert rows / columns == pytest.approx(2, rel=0.15)


def test_a_case_is_the_same_in_another_process_order_and_set_size(tmp_path: Path) -> None:
    here = Phantom(cache_dir=tmp_path / "here", **FLAT)
    here.cases()
    there = Phantom(cache_dir=tmp_path / "there", **FLAT | {"n_cases": 1})
    process = draw_in_another_process(tmp_path / "there", order="(2, 0, 1)")
    assert process.wait(60) == 0
    assert contents(here) == contents(there)


def test_two_processes_may_draw_at_once(tmp_path: Path) -> None:
    processes = [draw_in_another_process(tmp_path, order="(0, 1, 2)") for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    source = Phantom(cache_dir=tmp_path, **FLAT)
    assert sorted(contents(source)) == [case.images[0].name for case in source.cases()]
    assert all(mask.any() for mask in masks(source))


def test_what_a_killed_writer_leaves_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(stream: Any, **arrays: np.ndarray) -> None:
        stream.write(b"PK\x03\x04")
        raise KeyboardInterrupt

    whole = Phantom(cache_dir=tmp_path / "whole", **FLAT)
    whole.cases()
    source = Phantom(cache_dir=tmp_path / "killed", **FLAT)
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", half)
        with pytest.raises(KeyboardInterrupt):
            source.cases()
    assert not list(source.folder.glob("case_*.npz"))
    (source.folder / ".case_0001.npz.left").write_bytes(b"PK\x03\x04")
    for case, expected in zip(source.cases(), whole.cases(), strict=True):
        assert case.images[0].read_bytes() == expected.images[0].read_bytes()


def test_cases_that_exist_are_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Phantom(cache_dir=tmp_path, **FLAT)
    listed = source.cases()
    monkeypatch.setattr(phantom, "draw_case", None)
    assert source.cases() == listed


def test_construction_draws_nothing(tmp_path: Path) -> None:
    assert not Phantom(cache_dir=tmp_path / "cache", **FLAT).folder.exists()


def test_no_threshold_finds_the_organ(tmp_path: Path) -> None:
    knobs = {"spatial_dims": 2, "n_cases": 20, "shape": [64, 64], "spacing_mm": [1.0, 1.0]}
    source = Phantom(cache_dir=tmp_path, **knobs)
    values, organ = np.ravel(pixels(source)), np.ravel(masks(source)) > 0
    bins = np.digitize(values, np.quantile(values, np.linspace(0, 1, 101)[1:-1]))
    below = np.concatenate([[0], np.bincount(bins).cumsum()])
    organ_below = np.concatenate([[0], np.bincount(bins, weights=organ).cumsum()])
    selected, hit = (np.triu(sums - sums[:, None]) for sums in (below, organ_below))  # of each interval of intensities
    best = np.max(2 * hit / (selected + organ.sum()))
    assert 0.3 < best < 0.7  # a small U-Net reaches over 0.9


@pytest.mark.parametrize(
    "knob",
    [
        {"organ_contrast": 0.3},
        {"texture": 0.0},
        {"noise": 0.2},
        {"bias_field": 0.0},
        {"max_lesions": 9},
        {"lesion_free": 1.0},
        {"lesion_radius_mm": [4.0, 4.5]},
        {"lesion_contrast": [0.1, 0.1]},
        {"seed": 1},
    ],
    ids=lambda knob: next(iter(knob)),
)
def test_every_knob_changes_the_images_and_their_folder(tmp_path: Path, knob: dict[str, Any]) -> None:
    source, changed = (Phantom(cache_dir=tmp_path, **FLAT, **extra) for extra in ({}, knob))
    assert source.folder != changed.folder
    assert not np.array_equal(pixels(source), pixels(changed))


@pytest.mark.parametrize("knob", [{"noise": 0.3}, {"texture": 0.0}, {"bias_field": 0.0}, {"n_channels": 2}], ids=str)
def test_appearance_does_not_change_the_anatomy(tmp_path: Path, knob: dict[str, Any]) -> None:
    source, changed = (Phantom(cache_dir=tmp_path, **FLAT, **extra) for extra in ({}, knob))
    np.testing.assert_array_equal(masks(source), masks(changed))


def test_noise_has_the_declared_standard_deviation(tmp_path: Path) -> None:
    still, noisy = (Phantom(cache_dir=tmp_path, noise=noise, **FLAT) for noise in (0.0, 0.1))
    difference = np.array(pixels(noisy)) - np.array(pixels(still))
    assert difference.std() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("spatial_dims", 4),
        ("n_cases", 0),
        ("shape", [64]),
        ("shape", [64, 8]),
        ("spacing_mm", [1.0, 0.0]),
        ("spacing_mm", [1.0, 1.0, 1.0]),
        ("n_channels", 0),
        ("organ_contrast", float("nan")),
        ("texture", -0.1),
        ("noise", -0.1),
        ("bias_field", -0.1),
        ("max_lesions", 0),
        ("lesion_free", 1.5),
        ("lesion_radius_mm", [0.0, 3.0]),
        ("lesion_radius_mm", [4.0, 3.0]),
        ("lesion_contrast", [0.1]),
        ("seed", -1),
    ],
)
def test_an_unfit_knob_is_named_with_its_value(tmp_path: Path, knob: str, value: Any) -> None:
    with pytest.raises(UsageError, match=knob) as caught:
        Phantom(cache_dir=tmp_path, **FLAT | {knob: value})
    assert str(value[-1] if isinstance(value, list) else value) in str(caught.value)


@pytest.mark.parametrize("damage", [b"", b"<html>not found</html>", None], ids=["empty", "html", "truncated"])
def test_a_damaged_file_is_named_with_its_remedy(tmp_path: Path, damage: bytes | None) -> None:
    source = Phantom(cache_dir=tmp_path, **FLAT)
    case = source.cases()[1]
    path = case.images[0]
    path.write_bytes(path.read_bytes()[:3000] if damage is None else damage)
    with pytest.raises(DataError, match=r"case_0001.*delete it"):
        source.read(case)


def test_a_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    source = Phantom(cache_dir=tmp_path, **FLAT)
    case = source.cases()[0]
    np.savez_compressed(case.images[0], pixels=np.zeros((1, 4, 4), np.float32), mask=np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=r"\(1, 48, 40\).*got \(1, 4, 4\)"):
        source.read(case)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"case_0000.*cache_dir"):
        Phantom(cache_dir=tmp_path / "file", **FLAT).cases()


def test_a_source_travels_to_a_worker(tmp_path: Path) -> None:
    source = Phantom(cache_dir=tmp_path, **FLAT)
    assert pickle.loads(pickle.dumps(source)).cases() == source.cases()

from __future__ import annotations

import itertools
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from medexp.core.errors import DataError, UsageError
from medexp.data.sources import mni_white_matter
from medexp.data.sources.mni_white_matter import MNIWhiteMatter

without_nilearn = "needs nilearn, the extra 'demo'"


@pytest.fixture
def source() -> MNIWhiteMatter:
    pytest.importorskip("nilearn", reason=without_nilearn)
    return MNIWhiteMatter()


def height(case_id: str) -> int:
    return int(case_id.removeprefix("slice_"))


def test_slices_hold_both_tissues_on_a_grid_of_one_millimetre(source: MNIWhiteMatter) -> None:
    for case in source.cases():
        image = source.read(case)
        assert image.pixels.shape == (1, 197, 233)
        assert image.pixels.dtype == np.float32
        assert image.geometry.spacing_mm == (1.0, 1.0)
        assert set(np.unique(image.annotation.mask)) == {0, 1, 2}


def test_white_matter_is_brighter_than_grey_and_air_is_black(source: MNIWhiteMatter) -> None:
    image = source.read(source.cases()[40])
    mask = image.annotation.mask
    assert image.pixels[0][mask == 2].mean() > image.pixels[0][mask == 1].mean() > image.pixels[0][mask == 0].mean()
    assert image.pixels[0][0, 0] == 0


def test_groups_are_blocks_of_slices_with_a_gap_between_them(source: MNIWhiteMatter) -> None:
    cases = source.cases()
    assert len({case.group for case in cases}) >= 10
    for below, above in itertools.pairwise(cases):
        distance = height(above.case_id) - height(below.case_id)
        assert distance == 1 if below.group == above.group else distance >= 3


def test_knobs_set_block_gap_and_smallest_area() -> None:
    pytest.importorskip("nilearn", reason=without_nilearn)
    every = MNIWhiteMatter(block_slices=10, gap_slices=0).cases()
    heights = [height(case.case_id) for case in every]
    assert heights == list(range(heights[0], heights[-1] + 1))
    assert all(case.group == f"block_{height(case.case_id) // 10 * 10:03d}" for case in every)
    assert 0 < len(MNIWhiteMatter(block_slices=10, gap_slices=0, min_brain_area_mm2=15000.0).cases()) < len(every)


def test_the_area_is_that_of_the_brain_in_the_slice(source: MNIWhiteMatter) -> None:
    areas_mm2 = [(source.read(case).pixels > 0).sum() for case in source.cases()]
    assert min(areas_mm2) >= 5000


@pytest.mark.parametrize(
    ("grey", "white", "label"),
    [(0, 0, 0), (200, 50, 1), (50, 200, 2), (120, 10, 0), (128, 127, 1), (127, 128, 2), (100, 100, 1), (85, 85, 0)],
)
def test_the_largest_share_is_the_label_and_the_first_wins_a_tie(grey: int, white: int, label: int) -> None:
    found = mni_white_matter._most_probable(np.array([[grey]], np.uint8), np.array([[white]], np.uint8))
    assert found.tolist() == [[label]]


@pytest.mark.filterwarnings("ignore")
def test_image_and_labels_agree_with_nilearns_own_loaders(source: MNIWhiteMatter) -> None:
    datasets = pytest.importorskip("nilearn.datasets", reason=without_nilearn)
    template = datasets.load_mni152_template(resolution=1)
    grey, white = (
        load(resolution=1).get_fdata() for load in (datasets.load_mni152_gm_template, datasets.load_mni152_wm_template)
    )
    for case in source.cases()[::20]:
        image = source.read(case)
        z = height(case.case_id)
        np.testing.assert_allclose(image.pixels[0] / 255, template.get_fdata()[:, :, z], atol=1e-6)
        mask = image.annotation.mask
        np.testing.assert_array_equal(mask == 2, (white > grey)[:, :, z] & (white > 1 - grey - white + 1e-6)[:, :, z])
        world = image.geometry.affine @ [10, 20, 1]
        np.testing.assert_allclose(world[:2], (template.affine @ [10, 20, z, 1])[:2])


def test_three_dimensions_are_refused_with_the_reason() -> None:
    with pytest.raises(UsageError, match=r"got 3.*one brain"):
        MNIWhiteMatter(spatial_dims=3)


def test_a_gap_as_long_as_the_block_is_refused() -> None:
    with pytest.raises(UsageError, match="gap_slices"):
        MNIWhiteMatter(block_slices=4, gap_slices=4)


def test_an_area_that_no_slice_has_is_refused() -> None:
    pytest.importorskip("nilearn", reason=without_nilearn)
    with pytest.raises(DataError, match="min_brain_area_mm2 1000000"):
        MNIWhiteMatter(min_brain_area_mm2=1e6).cases()


def test_without_nilearn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nilearn", None)
    with pytest.raises(UsageError, match=r"pip install medexp\[demo\]"):
        MNIWhiteMatter()


def test_a_nilearn_without_the_files_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mni_white_matter, "_data_folder", lambda: tmp_path)
    with pytest.raises(DataError, match=r"mni_icbm152_t1.*missing"):
        MNIWhiteMatter().cases()


def test_a_source_travels_to_a_worker(source: MNIWhiteMatter) -> None:
    source.cases()
    assert len(pickle.dumps(source)) < 10_000
    assert pickle.loads(pickle.dumps(source)).cases() == source.cases()

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import pdist
from skimage.draw import disk, ellipse
from skimage.measure import find_contours, regionprops

import medexp
from medexp.cli.main import main
from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.objects import Objects
from medexp.core.types import Prediction, StructureClass
from medexp.description.describe import describe
from medexp.description.shape import diameters_mm, surface_mm

CLASSES = (StructureClass("plain", 0, 1), StructureClass("mitotic", 0, 2))


def predicted(instances: np.ndarray, labels: list[int], affine: np.ndarray | None = None, **more) -> Prediction:
    dims = instances.ndim
    geometry = Geometry(instances.shape, np.eye(dims + 1) if affine is None else affine)
    objects = Objects.of_instances(instances, dict(enumerate(labels, start=1)))
    return Prediction("a", "patient", geometry, CLASSES, instances=instances, objects=objects, **more)


def drawn(shape: tuple[int, int], *parts: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    instances = np.zeros(shape, np.int32)
    for number, part in enumerate(parts, start=1):
        instances[part] = number
    return instances


def ball(radius: float, spacing: tuple[float, float, float]) -> np.ndarray:
    counts = [int(2 * radius / length) + 5 for length in spacing]
    away = [(np.arange(n) - n // 2) * length for n, length in zip(counts, spacing, strict=True)]
    return np.sqrt(sum(axis**2 for axis in np.meshgrid(*away, indexing="ij"))) <= radius


@pytest.mark.parametrize("seed", range(3))
def test_the_longest_diameter_is_the_largest_distance_on_the_outline(seed):
    rng = np.random.default_rng(seed)
    area = np.zeros((60, 60), bool)
    area[ellipse(30, 30, rng.uniform(8, 25), rng.uniform(8, 25), rotation=rng.uniform(0, 3))] = True
    area[rng.integers(20, 40), 20:40] = True
    outline = np.concatenate(find_contours(np.pad(area, 1).astype(float), 0.5)) * (0.7, 1.3)
    assert diameters_mm(area, (0.7, 1.3))[0] == pytest.approx(pdist(outline).max())


@pytest.mark.parametrize("angle", [0.0, 0.4, 1.1])
def test_both_diameters_of_an_ellipse_are_twice_its_half_axes_whatever_its_direction(angle):
    area = np.zeros((200, 200), bool)
    area[ellipse(100, 100, 80, 35, rotation=angle)] = True
    longest, perpendicular = diameters_mm(area, (0.5, 0.5))
    assert longest == pytest.approx(80, abs=1)
    assert perpendicular == pytest.approx(35, abs=1)


def test_wide_pixels_are_measured_in_millimetres():
    area = np.zeros((10, 20), bool)
    area[2:8, 3:18] = True  # 6 x 15 pixels of 4 x 1 mm
    longest, perpendicular = diameters_mm(area, (4.0, 1.0))
    # The outline cuts the corners of a rectangle by half a pixel.
    diagonal = np.hypot(24, 15)
    assert diagonal - 2.5 < longest < diagonal
    assert 15 < perpendicular < 15 * diagonal / 24
    single = np.ones((1, 1), bool)
    assert diameters_mm(single, (3.0, 1.0)) == pytest.approx((3.0, 1.0))


def test_the_perpendicular_diameter_is_a_chord_and_not_the_width_of_the_shadow():
    area = np.zeros((40, 120), bool)
    for row in range(30):  # a slanted bar, whose shadow across its long axis is wider than any chord there
        area[5 + row, 5 + 2 * row : 45 + 2 * row] = True
    longest, perpendicular = diameters_mm(area, (1.0, 1.0))
    places = np.argwhere(area).astype(float)
    ends = places[[0, -1]]
    along = (ends[1] - ends[0]) / np.linalg.norm(ends[1] - ends[0])
    across = places @ np.array([-along[1], along[0]])
    chords = [np.ptp(across[np.abs(places @ along - at) < 0.5]) for at in np.linspace(10, 100, 60)]
    assert longest == pytest.approx(np.linalg.norm(ends[1] - ends[0]), abs=1.5)
    assert perpendicular == pytest.approx(max(chords), abs=2)
    assert perpendicular < np.ptp(across) - 1 or np.ptp(across) - max(chords) < 2


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 1.0, 2.0)])
def test_the_surface_of_a_ball_and_the_outline_of_a_disc(spacing):
    surface = surface_mm(ball(14.0, spacing), spacing)
    assert surface == pytest.approx(4 * np.pi * 14**2, rel=0.02)
    flat = np.zeros((90, 90), bool)
    flat[disk((45, 45), 30)] = True
    assert surface_mm(flat, (1.0, 1.0)) == pytest.approx(2 * np.pi * 30, rel=0.02)


def test_place_size_and_intensities_of_each_instance():
    rng = np.random.default_rng(0)
    instances = drawn((40, 50), disk((12, 12), 6), disk((28, 36), 9))
    pixels = rng.random((2, 40, 50)).astype(np.float32)
    affine = np.array([[0.0, 2.0, 10.0], [-0.5, 0.0, 20.0], [0.0, 0.0, 1.0]])
    rows = describe(predicted(instances, [2, 1], affine, pixels=pixels), channels=("t1", "t2"))
    assert [(row["object"], row["class"], row["score"]) for row in rows] == [(1, "mitotic", 1.0), (2, "plain", 1.0)]
    for row, region in zip(rows, regionprops(instances, np.moveaxis(pixels, 0, -1)), strict=True):
        center = affine[:2, :2] @ np.array(region.centroid) + affine[:2, 2]
        assert (row["center_0"], row["center_1"]) == pytest.approx(tuple(center))
        assert [row["box_low_0"], row["box_low_1"], row["box_high_0"], row["box_high_1"]] == list(region.bbox)
        assert row["voxels"] == region.area
        assert row["size"] == pytest.approx(region.area * 1.0)
        assert [row["t1_mean"], row["t2_mean"]] == pytest.approx(region.intensity_mean.tolist())
        assert [row["t1_min"], row["t1_max"]] == pytest.approx([region.intensity_min[0], region.intensity_max[0]])
        values = pixels[1][instances == region.label]
        assert [row["t2_sd"], row["t2_median"]] == pytest.approx([values.std(), np.median(values)])


def test_a_volume_is_measured_in_the_slice_where_it_is_longest():
    spacing = (1.0, 1.0, 3.0)
    whole = ball(15.0, spacing)
    (row,) = describe(predicted(whole.astype(np.int32), [1], np.diag([*spacing, 1.0])))
    filled = np.flatnonzero(whole.any(axis=(0, 1)))
    assert (row["slice_axis"], row["first_slice"], row["last_slice"]) == (2, filled[0], filled[-1])
    assert row["diameter_slice"] == whole.shape[2] // 2
    assert row["longest_diameter"] == pytest.approx(30, abs=1.5)
    assert row["size"] == pytest.approx(4 / 3 * np.pi * 15**3, rel=0.03)
    (sagittal,) = describe(predicted(whole.astype(np.int32), [1], np.diag([*spacing, 1.0])), slice_axis=0)
    assert sagittal["slice_axis"] == 0
    assert sagittal["longest_diameter"] == pytest.approx(30, abs=3)


def test_boxes_and_points_have_a_place_a_class_and_a_size():
    objects = Objects.of(
        np.array([[2.0, 3.0, 6.0, 11.0], [5.0, 5.0, 5.0, 5.0]]), np.array([1, 2]), np.array([0.7, 0.2])
    )
    geometry = Geometry.from_spacing((20, 20), (2.0, 0.5))
    rows = describe(Prediction("a", "p", geometry, CLASSES, objects=objects))
    assert [(row["class"], row["score"], row["size"]) for row in rows] == [("plain", 0.7, 32.0), ("mitotic", 0.2, 0.0)]
    assert [(row["center_0"], row["center_1"]) for row in rows] == [(7.0, 3.25), (9.0, 2.25)]
    assert "surface" not in rows[0]


def test_the_parts_of_a_mask_are_objects_and_regions_may_overlap():
    mask = np.zeros((1, 12, 12), np.uint8)
    mask[0, 1:4, 1:4], mask[0, 6:9, 6:9], mask[0, 4:6, 10:12] = 1, 1, 2
    geometry = Geometry.from_spacing((12, 12), (1.0, 1.0))
    rows = describe(Prediction("a", "p", geometry, CLASSES, mask=mask))
    assert [(row["object"], row["class"], row["voxels"]) for row in rows] == [
        (1, "plain", 9), (2, "plain", 9), (3, "mitotic", 4)
    ]  # fmt: skip
    regions = (StructureClass("whole", 0, 1), StructureClass("core", 1, 1))
    layers = np.stack([mask[0] > 0, mask[0] == 2]).astype(np.uint8)
    found = describe(Prediction("a", "p", geometry, regions, mask=layers, exclusive=False))
    assert [(row["class"], row["voxels"]) for row in found] == [("whole", 9), ("whole", 4), ("whole", 9), ("core", 4)]


def test_an_image_without_objects_has_no_row():
    assert describe(predicted(np.zeros((5, 6), np.int32), [])) == []


def test_what_cannot_be_described_is_told():
    geometry = Geometry.from_spacing((12, 12, 12), (1.0, 1.0, 1.0))
    with pytest.raises(DataError, match="case a has neither instances nor objects nor a mask"):
        describe(Prediction("a", "p", geometry, CLASSES))
    with pytest.raises(UsageError, match="slice_axis needs a number from 0 to 2, got 3"):
        describe(Prediction("a", "p", geometry, CLASSES), slice_axis=3)


def test_the_objects_of_a_run_are_described_as_csv_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = medexp.compose(
        None,
        [
            "dataset=nuclei", "task=instance/split", "post_processing.steps=[argmax,components]", "metrics=[pq]",
            "dataset.source.n_cases=4", "dataset.source.shape=[32,32]", "dataset.patch_size=[32,32]",
            "dataset.split.n_folds=4", "dataset.workers=0", "dataset.batch_size=2", "model.channels=[4,8]",
            "model.strides=[2]", "model.num_res_units=0", "threads=1", "trainer.max_steps=2", "overlays=0",
            "dataset.source.empty=0.0", f"paths.runs={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}",
        ],
    )  # fmt: skip
    run = medexp.train(config)
    assert main(["describe", str(run.path), "--reference", "-o", str(tmp_path / "known.json")]) == 0
    rows = json.loads((tmp_path / "known.json").read_text())
    assert {row["class"] for row in rows} <= {"interphase", "mitotic"}
    assert all(row["size"] > 0 and row["fluorescence_mean"] > 0 for row in rows)
    assert main(["describe", str(run.path), "--reference"]) == 0
    table = pd.read_csv(run.path / "described.csv")
    pd.testing.assert_frame_equal(table, pd.DataFrame(rows))
    assert f"{len(rows)} objects" in capsys.readouterr().out
    assert main(["describe", str(run.path), "-o", "objects.txt"]) == 2
    assert "needs to end in .csv or .json" in capsys.readouterr().err

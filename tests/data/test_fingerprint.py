"""What is measured of a case and of a dataset, against numpy and scipy."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medexp.core.errors import DataError
from medexp.core.geometry import Geometry
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Case, Image
from medexp.data.fingerprint import CaseSummaries, CaseSummary, Fingerprint, summarise
from medexp.data.fingerprint.dataset import weighted_percentile
from medexp.data.fingerprint.page import write_page


def image_of(
    pixels: np.ndarray, annotation: Annotation | None, *, spacing: tuple[float, ...] | None = None, unit: Any = "mm"
) -> Image:
    shape = pixels.shape[1:]
    geometry = Geometry.from_spacing(shape, spacing or (1.0,) * len(shape), unit=unit)
    return Image(
        case=Case("case", "case", ()), pixels=pixels.astype(np.float32), annotation=annotation, geometry=geometry
    )


def random_mask(shape: tuple[int, ...], *, seed: int = 0) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return np.digitize(noise, np.quantile(noise, [0.7, 0.9])).astype(np.uint8)


@pytest.mark.parametrize(("shape", "spacing"), [((40, 50), (2.0, 0.5)), ((20, 24, 16), (1.0, 1.5, 4.0))])
def test_objects_of_a_mask_are_its_connected_parts(shape, spacing):
    mask = random_mask(shape)
    found = summarise(image_of(np.ones((1, *shape)), Annotation(mask=mask), spacing=spacing)).classes
    assert sorted(found) == [1, 2]
    for label in (1, 2):
        parts, count = ndimage.label(mask == label, structure=np.ones((3,) * len(shape)))
        boxes = ndimage.find_objects(parts)
        expected = sorted(
            (
                np.sum(parts == k + 1) * np.prod(spacing),
                *[(a.stop - a.start) * s for a, s in zip(box, spacing, strict=True)],
            )
            for k, box in enumerate(boxes)
        )
        assert found[label].n_objects == count > 1
        np.testing.assert_allclose(sorted(found[label].objects), expected)
        assert found[label].volume_mm3 == pytest.approx(np.sum(mask == label) * np.prod(spacing))


def test_instances_have_their_own_volumes_and_the_labels_of_their_objects():
    instances = np.zeros((8, 10), dtype=np.int32)
    instances[1:4, 2:7], instances[4:6, 2:4], instances[7, 9] = 1, 2, 3
    annotation = Annotation(instances=instances, objects=Objects.of_instances(instances, {1: 5, 2: 5, 3: 7}))
    classes = summarise(image_of(np.ones((1, 8, 10)), annotation, spacing=(2.0, 3.0))).classes
    assert classes[5].objects == ((24.0, 4.0, 6.0), (90.0, 6.0, 15.0))
    assert (classes[5].n_objects, classes[5].volume_mm3) == (2, 114.0)
    assert classes[7].objects == ((6.0, 2.0, 3.0),)


def test_boxes_have_extents_and_no_volume_in_a_mask_and_points_have_neither():
    pixels = np.arange(60.0).reshape(1, 6, 10)
    boxes = Objects.of(np.array([[1.0, 2.0, 3.0, 6.0], [4.0, 0.0, 6.0, 1.0]]), np.array([1, 2]))
    summary = summarise(image_of(pixels, Annotation(objects=boxes)))
    assert summary.foreground == "objects"
    inside = np.concatenate([pixels[0, 1:3, 2:6].ravel(), pixels[0, 4:6, 0]])
    assert summary.channels[0].mean == pytest.approx(inside.mean())
    assert summary.classes[1].objects == ((8.0, 2.0, 4.0),)
    assert np.isnan(summary.classes[1].volume_mm3)
    points = Objects.of(np.array([[2.5, 2.5, 2.5, 2.5]] * 3), np.array([1, 1, 1]))
    summary = summarise(image_of(pixels, Annotation(objects=points)))
    assert (summary.foreground, summary.classes[1].n_objects) == ("image", 3)
    assert summary.channels[0].mean == pytest.approx(pixels.mean())


@pytest.mark.parametrize("seed", range(3))
def test_intensities_are_those_of_the_foreground(seed):
    random = np.random.default_rng(seed)
    pixels = random.gamma(2.0, 50.0, size=(2, 30, 30, 10))
    mask = random_mask((30, 30, 10), seed=seed)
    summary = summarise(image_of(pixels, Annotation(mask=mask)))
    assert summary.foreground == "mask"
    for channel, found in zip(pixels.astype(np.float32), summary.channels, strict=True):
        values = channel[mask > 0]
        assert (found.mean, found.std) == (
            pytest.approx(values.mean(), rel=1e-5),
            pytest.approx(values.std(), rel=1e-5),
        )
        np.testing.assert_allclose(found.quantiles, np.percentile(values, np.linspace(0, 100, 201)), rtol=1e-5)


def test_what_nobody_annotated_is_no_foreground_and_no_class():
    pixels, mask = np.zeros((1, 6, 6)), np.zeros((6, 6), dtype=np.uint8)
    mask[:2], mask[4:] = 1, 9
    pixels[0, :2], pixels[0, 4:] = 5.0, 100.0
    summary = summarise(image_of(pixels, Annotation(mask=mask)), ignored_label=9)
    assert (list(summary.classes), summary.channels[0].mean) == ([1], 5.0)


def test_a_case_that_shows_nothing_has_no_intensities_and_one_without_annotation_those_of_the_image():
    pixels = np.arange(12.0).reshape(1, 3, 4)
    empty = summarise(image_of(pixels, Annotation(mask=np.zeros((3, 4), dtype=np.uint8))))
    assert (empty.foreground, empty.channels, empty.classes) == ("mask", (), {})
    without = summarise(image_of(pixels, None))
    assert (without.foreground, without.channels[0].mean) == ("image", 5.5)
    labelled = summarise(image_of(pixels, Annotation(image_labels=(2, 4))))
    assert (labelled.foreground, labelled.image_labels, labelled.classes) == ("image", (2, 4), {})


def test_the_margin_of_zeros_is_measured_over_all_channels():
    pixels = np.zeros((2, 20, 10, 8))
    pixels[0, 5:9, 2:4, 3], pixels[1, 7:12, 1, 3] = 1.0, -1.0
    assert summarise(image_of(pixels, None)).nonzero_shape == (7, 3, 1)
    assert summarise(image_of(np.zeros((1, 4, 5)), None)).nonzero_shape == (4, 5)


def test_many_objects_are_thinned_without_changing_how_large_they_are():
    random = np.random.default_rng(0)
    low = random.uniform(0, 500, size=(3000, 2))
    boxes = np.concatenate([low, low + random.gamma(3.0, 4.0, size=(3000, 2))], axis=1)
    annotation = Annotation(objects=Objects.of(boxes, np.ones(3000)))
    (found,) = summarise(image_of(np.ones((1, 600, 600)), annotation)).classes.values()
    assert (found.n_objects, len(found.objects)) == (3000, 500)
    volumes = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    kept = np.array(found.objects)[:, 0]
    np.testing.assert_allclose(np.percentile(kept, [10, 50, 90]), np.percentile(volumes, [10, 50, 90]), rtol=0.02)
    assert (kept.min(), kept.max()) == (pytest.approx(volumes.min()), pytest.approx(volumes.max()))


def test_a_summary_survives_json():
    mask = random_mask((12, 9, 7))
    annotation = Annotation(mask=mask, image_labels=(1, 2))
    summary = summarise(
        image_of(np.random.default_rng(0).normal(size=(2, 12, 9, 7)), annotation, spacing=(1.0, 2.0, 0.3))
    )
    assert CaseSummary.from_plain(json.loads(json.dumps(summary.as_plain()))) == summary


@settings(deadline=None, database=None)
@given(
    rows=st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(1, 9)), min_size=1, max_size=30),
    percent=st.sampled_from([0.5, 10.0, 50.0, 90.0, 99.5]),
)
def test_a_weighted_percentile_is_that_of_rows_repeated_by_their_weight(rows, percent):
    values, weights = np.array(rows, dtype=np.float64).T
    repeated = np.repeat(values, weights.astype(int))
    expected = np.percentile(repeated, percent, method="inverted_cdf")
    assert float(weighted_percentile(values, percent, weights)) == expected


@dataclass
class Listed:
    """Images that were made beforehand."""

    images: dict[str, Image]
    spatial_dims: int = 3
    name: str = "listed"
    channels: tuple[str, ...] = ("CT",)
    labels: dict[int, str] = field(default_factory=lambda: {0: "background", 1: "organ", 2: "lesion", 3: "never"})
    public: bool = True

    def cases(self) -> list[Case]:
        return [Case(name, name, ()) for name in self.images]

    def read(self, case: Case) -> Image:
        return self.images[case.case_id]


def fingerprint_of(images: list[Image], *, orient: bool = False, **fields: Any) -> Fingerprint:
    source = Listed({f"case_{i}": image for i, image in enumerate(images)}, **fields)
    summaries = [CaseSummary(**{**vars(summarise(image)), "case_id": name}) for name, image in source.images.items()]
    return Fingerprint(source, summaries, orient=orient)


def test_the_figures_of_a_dataset_are_those_of_all_its_cases():
    random = np.random.default_rng(4)
    shapes = [(20, 24, 10), (30, 20, 12), (22, 26, 14)]
    masks = [random_mask(shape, seed=i) for i, shape in enumerate(shapes)]
    masks[1][masks[1] == 2] = 0
    images = [
        image_of(random.normal(i * 10, 3, size=(1, *shape)), Annotation(mask=mask), spacing=(1.0, 1.0, 2.0 + i))
        for i, (shape, mask) in enumerate(zip(shapes, masks, strict=True))
    ]
    found = fingerprint_of(images)
    plain = json.loads(json.dumps(found.as_plain()))
    assert plain["shape"]["median"] == np.median(shapes, axis=0).tolist()
    assert plain["spacing_mm"]["max"] == [1.0, 1.0, 4.0]
    lesion, never = plain["classes"]["lesion"], plain["classes"]["never"]
    assert (lesion["cases"], lesion["missing_in"]) == (2, ["case_1"])
    volumes = [np.sum(masks[i] == 2) * (2.0 + i) for i in (0, 2)]
    assert lesion["volume_mm3"]["median"] == pytest.approx(np.median(volumes))
    assert (never["cases"], never["missing_in"], never["objects"]) == (0, ["case_0", "case_1", "case_2"], 0)
    assert plain["without_objects"] == []
    pooled = [image.pixels[0][mask > 0] for image, mask in zip(images, masks, strict=True)]
    # Each case counts alike, as where nnU-Net draws as many voxels of each.
    drawn = np.concatenate([random.choice(values, 20_000) for values in pooled])
    intensities = plain["intensities"]["CT"]
    assert intensities["mean"] == pytest.approx(drawn.mean(), abs=0.1)
    assert intensities["std"] == pytest.approx(drawn.std(), rel=0.01)
    for name, percent in (("p00.5", 0.5), ("median", 50), ("p99.5", 99.5)):
        assert intensities[name] == pytest.approx(np.percentile(drawn, percent), abs=0.3)
    assert intensities["max"] == pytest.approx(max(values.max() for values in pooled), rel=1e-5)


def test_figures_stand_along_the_axes_of_the_network():
    mask = np.zeros((20, 10, 6), dtype=np.uint8)
    mask[3:15, 2:4, 1] = 1
    affine = np.array([[0.0, 0.0, -5.0, 0.0], [2.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    image = Image(
        Case("a", "a", ()),
        np.ones((1, 20, 10, 6), dtype=np.float32),
        Annotation(mask=mask),
        Geometry((20, 10, 6), affine),
    )
    as_read, oriented = fingerprint_of([image]), fingerprint_of([image], orient=True)
    assert as_read.spacings_mm.tolist() == [[2.0, 1.0, 5.0]]
    assert oriented.spacings_mm.tolist() == [[5.0, 2.0, 1.0]]
    assert (as_read.shapes.tolist(), oriented.shapes.tolist()) == ([[20, 10, 6]], [[6, 20, 10]])
    assert as_read.region_mm().tolist() == [24.0, 2.0, 5.0]
    assert oriented.region_mm().tolist() == [5.0, 24.0, 2.0]


def test_specks_do_not_make_the_regions_small():
    mask = np.zeros((60, 60), dtype=np.uint8)
    mask[10:50, 22:39] = 1
    mask[::4, ::4] = np.maximum(mask[::4, ::4], 1)
    found = fingerprint_of([image_of(np.ones((1, 60, 60)), Annotation(mask=mask))], spatial_dims=2)
    (sizes,) = [sizes for name, sizes in found.classes.items() if name == "organ"]
    assert np.median(sizes.object_extents_mm) == 1.0
    assert found.region_mm().tolist() == [40.0, 17.0]


def test_images_of_each_label_are_counted():
    images = [image_of(np.ones((1, 4, 4)), Annotation(image_labels=labels)) for labels in ((1,), (1, 2), ())]
    found = fingerprint_of(images, spatial_dims=2)
    assert found.image_labels == {"background": 0, "organ": 2, "lesion": 1, "never": 0}
    assert (found.classes, found.without_objects, found.region_mm().tolist()) == ({}, (), [0.0, 0.0])


def test_scales_that_cannot_be_compared_are_told():
    images = [image_of(np.ones((1, 4, 4)), None, unit=unit) for unit in ("mm", "px")]
    with pytest.raises(DataError, match=r"listed has cases with a scale in mm and cases without one \(case case_1\)"):
        fingerprint_of(images, spatial_dims=2)
    with pytest.raises(DataError, match="listed has no case"):
        fingerprint_of([])


def test_the_page_needs_no_other_file_and_names_what_is_missing(tmp_path):
    masks = [random_mask((20, 20), seed=i) for i in range(4)]
    masks[2][:] = 0
    masks[3][masks[3] == 2] = 0
    images = [
        image_of(np.random.default_rng(0).normal(size=(1, 20, 20)), Annotation(mask=mask), unit="px") for mask in masks
    ]
    write_page(
        fingerprint_of(images, spatial_dims=2, labels={0: "background", 1: "<organ>", 2: "lesion"}),
        tmp_path / "page.html",
    )
    text = (tmp_path / "page.html").read_text()
    assert text.count("data:image/png;base64,") >= 4
    assert 'src="http' not in text
    assert "<link" not in text
    assert "<script" not in text
    assert "&lt;organ&gt;" in text
    assert "<organ>" not in text
    assert "Cases without any object" in text
    assert "<p>case_2, case_3</p>" in text


@pytest.mark.parametrize("annotation", [None, Annotation(image_labels=(1,)), Annotation(objects=Objects.none(2))])
def test_a_page_is_written_of_datasets_that_annotate_no_places(annotation, tmp_path):
    write_page(fingerprint_of([image_of(np.zeros((1, 8, 8)), annotation)], spatial_dims=2), tmp_path / "page.html")
    assert "1 cases in 2D" in (tmp_path / "page.html").read_text()


def summaries_of(source: Any, folder: Path, **knobs: Any) -> CaseSummaries:
    return CaseSummaries(folder=folder, source=source, identity="x", **knobs)


def test_a_case_is_read_once_however_often_it_is_asked_for(numpy_source, tmp_path, monkeypatch):
    source = numpy_source()
    first = summaries_of(source, tmp_path / "cache").of(source.cases())
    read: list[str] = []
    monkeypatch.setattr(type(source), "read", lambda self, case: read.append(case.case_id))
    assert summaries_of(source, tmp_path / "cache").of(source.cases()) == first
    assert read == []
    assert len(list((tmp_path / "cache" / "fingerprint").rglob("summary.json"))) == 6


def test_a_case_whose_content_changed_is_measured_anew(numpy_source, tmp_path):
    source = numpy_source()
    before = summaries_of(source, tmp_path / "cache").of(source.cases())
    np.save(source.folder / "2_mask.npy", np.zeros((12, 10), dtype=np.int16))
    after = summaries_of(source, tmp_path / "cache").of(source.cases())
    assert [name for name in after if after[name] != before[name]] == ["case_2"]
    assert after["case_2"].classes == {}


def test_a_damaged_summary_is_measured_again(numpy_source, tmp_path):
    source = numpy_source(n_cases=2)
    before = summaries_of(source, tmp_path / "cache").of(source.cases())
    for file in (tmp_path / "cache" / "fingerprint").rglob("summary.json"):
        file.write_text('{"case_id": ')
    assert summaries_of(source, tmp_path / "cache").of(source.cases()) == before


def test_all_cases_that_cannot_be_measured_are_told_at_once(numpy_source, tmp_path):
    source = numpy_source()
    cases = source.cases()
    for number in (1, 4):
        (source.folder / f"{number}_image.npy").unlink()
    with pytest.raises(DataError) as told:
        summaries_of(source, tmp_path / "cache").of(cases)
    assert [fault.case_id for fault in told.value.faults] == ["case_1", "case_4"]
    (source.folder / "2_mask.npy").write_bytes(b"no array")
    assert list(summaries_of(source, tmp_path / "cache").readable(cases)) == ["case_0", "case_3", "case_5"]


@pytest.mark.real_data
def test_the_real_hippocampus_set(shared_data, tmp_path):
    from medexp.data.sources.msd import MSD

    source = MSD(root=shared_data("msd_task04_hippocampus"))
    cases = source.cases()[:40]
    found = Fingerprint(source, summaries_of(source, tmp_path).of(cases).values(), orient=False)
    assert found.spacings_mm.tolist() == [[1.0, 1.0, 1.0]] * 40
    assert set(found.classes) == {"Anterior", "Posterior"}
    masks = [source.read(case).annotation.mask for case in cases]
    for label, name in ((1, "Anterior"), (2, "Posterior")):
        assert found.classes[name].volumes_mm3.tolist() == [np.sum(mask == label) for mask in masks]

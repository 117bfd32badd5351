"""The page of a case, in a browser where there is one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import answer
from pictures import TWO, affine_of, image_of, predicted, rectangle, with_instances, with_objects

from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.types import Case, Image, Prediction, StructureClass
from medexp.engine.overlays import PALETTE
from medexp.engine.viewer import write_viewer

_SHAPE = (12, 20, 16)
_BARE = 'for (const id of ["fill", "contour", "cross"]) document.getElementById(id).click();'


def _volume() -> tuple[Image, Prediction, Prediction]:
    """A volume whose voxel axes run along the world's z, x (backwards) and y, with thick slices."""
    geometry = Geometry(_SHAPE, affine_of((2, 0, 1), (1, -1, 1), (3.0, 1.0, 1.0)))
    pixels = np.random.default_rng(0).uniform(-100, 300, size=(1, *_SHAPE)).astype(np.float32)
    image = Image(Case("jane_doe", "smith", ()), pixels, None, geometry)
    reference = rectangle(_SHAPE, slice(3, 9), slice(4, 12), slice(4, 12))
    reference[0, 5:7, 6:9, 6:9] = 2
    prediction = np.roll(reference, (1, 2), axis=(1, 2))
    return image, predicted(image, prediction, TWO), predicted(image, reference, TWO)


def _seen(image: Image, axis: int, index: int) -> np.ndarray:
    """The slice as the world has it, x to the right and z or y upwards, by hand for this one affine."""
    x, y, z = 1, 2, 0
    world = image.pixels[0].transpose(x, y, z)[::-1]  # x runs backwards
    place = {x: image.pixels.shape[1 + x] - 1 - index, y: index, z: index}[axis]
    return np.take(world, place, axis=(x, y, z).index(axis)).T[::-1]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a user sees who tries one control after the other."""
    page = write_viewer(*_volume(), tmp_path_factory.mktemp("viewer") / "page.html")
    return answer(
        page,
        """
        const told = { sums: {}, sizes: canvases().map(one => [one.height, one.width]), protocol: location.protocol };
        const note = name => { told.sums[name] = [0, 1, 2].map(sum); };
        note("start");
        key("ArrowUp"); note("key"); key("ArrowDown"); note("key back");
        wheel(2, 100); note("wheel"); wheel(2, -100); note("wheel back");
        key("2"); key("PageUp"); note("page"); key("PageDown");
        for (const name of ["reference", "prediction", "error"]) {
          document.getElementById(`show-${name}`).click(); note(name);
          key(name[0]); note(`${name} back`);
        }
        for (const id of ["fill", "contour", "cross"]) {
          document.getElementById(id).click(); note(id); document.getElementById(id).click();
        }
        slide("opacity", 90); note("opacity"); slide("opacity", 35);
        slide("width", 50); note("width"); key("w"); note("window reset");
        drag(0, 40, 0); note("drag"); key("w");
        const slider = document.querySelector("figcaption input");
        slider.value = 0; slider.dispatchEvent(new Event("input")); note("slider");
        told.caption = document.querySelector("figcaption").textContent;
        const lines = document.getElementById("legend").textContent;
        told.legend = lines;
        told.loaded = performance.getEntriesByType("resource").length;
        told.fetched = await fetch("http://127.0.0.1:9/").then(() => "yes", () => "no");
        return told;
        """,
    )


def test_the_page_opens_from_disk_and_may_load_nothing(told: dict[str, Any]) -> None:
    assert told["protocol"] == "file:"
    assert (told["loaded"], told["fetched"]) == (0, "no")


@pytest.mark.parametrize("act", ["key", "wheel", "page", "slider"])
def test_slices_change_by_key_wheel_and_slider(told: dict[str, Any], act: str) -> None:
    assert told["sums"][act] != told["sums"]["start"]


@pytest.mark.parametrize(
    "act", ["reference", "prediction", "error", "fill", "contour", "cross", "opacity", "width", "drag"]
)
def test_each_control_changes_what_is_seen_in_all_planes(told: dict[str, Any], act: str) -> None:
    before = told["sums"]["window reset"]
    assert all(one != other for one, other in zip(told["sums"][act], before, strict=True))


@pytest.mark.parametrize("act", ["key", "wheel", "reference", "prediction", "error"])
def test_the_same_control_takes_it_back(told: dict[str, Any], act: str) -> None:
    start = "window reset" if act in ("reference", "prediction", "error") else "start"
    assert told["sums"][f"{act} back"] == told["sums"][start]


def test_lengths_are_true_to_the_spacing(told: dict[str, Any]) -> None:
    lengths_mm = {0: 36.0, 1: 20.0, 2: 16.0}
    for (height, width), (rows, columns) in zip(told["sizes"], ((2, 1), (0, 2), (0, 1)), strict=True):
        assert height / width == pytest.approx(lengths_mm[rows] / lengths_mm[columns], rel=0.02)


def test_the_legend_names_the_classes(told: dict[str, Any]) -> None:
    assert told["legend"] == "leftright"
    assert told["caption"] == "axial, slice 0 of 0..11"


def test_intensities_and_areas_lie_where_the_arrays_have_them(tmp_path: Path) -> None:
    image, prediction, reference = _volume()
    page = write_viewer(image, prediction, reference, tmp_path / "page.html")
    sizes = [_seen(image, axis, 0).shape for axis in range(3)]
    reads = ", ".join(f"colours({axis}, {rows}, {columns})" for axis, (rows, columns) in enumerate(sizes))
    script = f"""{_BARE} slide("width", 400); slide("level", 100); const grey = [{reads}];
      key("r"); document.getElementById("fill").click(); slide("opacity", 100);
      return {{ grey, filled: [{reads}], window: ["level", "width"].map(id => +document.getElementById(id).value),
        at: [...document.querySelectorAll("figcaption input")].map(one => +one.value) }};"""
    told = answer(page, script)
    level, width = told["window"]
    assert told["at"] == [6, 8, 8]  # where the reference has most, the middle of several
    for axis, index in enumerate(told["at"]):
        grey = np.clip(255 * (_seen(image, axis, index) - level + width / 2) / width, 0, 255)
        edges = 3  # letters and the bar lie at the edges
        middle = (slice(edges, -edges), slice(edges, -edges))
        assert np.abs(np.array(told["grey"][axis])[..., 0] - grey)[middle].max() < 1.0
        numbers = _seen(Image(image.case, prediction.mask.astype(np.float32), None, image.geometry), axis, index)
        for number, colour in ((1, PALETTE[0]), (2, PALETTE[1])):
            rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
            painted = np.abs(np.array(told["filled"][axis]) - rgb).max(axis=-1) < 2
            assert np.array_equal(painted[middle], (numbers == number)[middle])


def test_a_picture_with_boxes_and_scores_is_one_panel(tmp_path: Path) -> None:
    image = image_of((40, 60))
    shown = with_objects(image, [[5, 10, 25, 40]], [1], [0.8])
    page = write_viewer(image, shown, None, tmp_path / "page.html")
    script = """const before = sum(0), [canvas, ...others] = canvases(); key("p");
      return [1 + others.length, before !== sum(0), canvas.width / canvas.height];"""
    panels, toggled, shape = answer(page, script)
    assert (panels, toggled) == (1, True)
    assert shape == pytest.approx(1.5, rel=0.01)


def _about(page: Path) -> dict[str, Any]:
    found = re.search(r'id="about">(.*?)</script>', page.read_text())
    assert found is not None
    return json.loads(found.group(1))


def test_the_page_holds_nothing_of_the_patient_but_pixels(tmp_path: Path) -> None:
    text = write_viewer(*_volume(), tmp_path / "page.html").read_text()
    assert not any(word in text for word in ("jane", "smith", "http:", "https:", "src=", str(tmp_path)))


def test_sides_of_the_patient_are_told_only_where_the_affine_tells_them(tmp_path: Path) -> None:
    known = _about(write_viewer(*_volume(), tmp_path / "known.html"))["views"]
    assert [view["letters"] for view in known] == [list("LRPA"), list("PAIS"), list("LRIS")]
    assert [view["name"] for view in known] == ["axial", "sagittal", "coronal"]
    image = image_of((6, 7, 8), spacing=(1.0, 1.0, 2.0), unit="mm")
    unknown = write_viewer(image, predicted(image, rectangle((6, 7, 8), slice(2, 4))), None, tmp_path / "unknown.html")
    assert [view["letters"] for view in _about(unknown)["views"]] == [None] * 3


def test_a_large_image_is_thinned_and_says_so(tmp_path: Path) -> None:
    image, prediction, reference = _volume()
    page = write_viewer(image, prediction, reference, tmp_path / "page.html", max_voxels=600)
    about = _about(page)
    assert (about["every"], about["shape"]) == (2, [6, 10, 8])
    assert np.allclose(np.multiply(about["shape"], about["spacing"]), [36.0, 20.0, 16.0])
    assert "Every 2. voxel" in page.read_text()
    assert "Every" not in write_viewer(image, prediction, reference, tmp_path / "whole.html").read_text()


def test_instances_of_one_class_differ_in_colour(tmp_path: Path) -> None:
    image = image_of((20, 30))
    instances = np.zeros((20, 30), np.int32)
    instances[2:8, 2:10], instances[10:18, 2:10] = 1, 2
    page = write_viewer(image, with_instances(image, instances, {1: 1, 2: 1}), None, tmp_path / "page.html")
    assert {look["name"] for look in _about(page)["looks"]} == {"organ"}
    script = 'document.getElementById("contour").click(); slide("opacity", 100); return colours(0, 20, 30);'
    seen = np.array(answer(page, script))
    for place, colour in (((5, 6), PALETTE[0]), ((14, 6), PALETTE[1])):
        assert np.abs(seen[place] - [int(colour[i : i + 2], 16) for i in (1, 3, 5)]).max() < 2


def test_what_a_page_cannot_show_is_refused(tmp_path: Path) -> None:
    image = image_of((10, 10))
    classes = tuple(StructureClass(f"class {i}", 0, i) for i in range(1, 300))
    with pytest.raises(DataError, match="255 classes at most, got 299"):
        write_viewer(image, predicted(image, np.zeros((1, 10, 10), np.uint16), classes), None, tmp_path / "page.html")
    with pytest.raises(UsageError, match="channel needs a value from 0 to 0"):
        write_viewer(image, predicted(image, np.zeros((1, 10, 10), np.uint8)), None, tmp_path / "page.html", channel=1)
    with pytest.raises(DataError, match="neither a prediction nor a reference"):
        write_viewer(image, None, None, tmp_path / "page.html")

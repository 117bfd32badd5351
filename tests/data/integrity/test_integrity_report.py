"""How a report is told: JSON, terminal, page."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from integrity_examples import boxes, case, image, noise, square
from matplotlib.image import imread
from rich.console import Console

from medexp.core.faults import Fault, Severity
from medexp.core.objects import Objects
from medexp.core.types import Case, Image
from medexp.data.integrity import Mode, Report
from medexp.data.integrity.page import write_page
from medexp.data.integrity.table import print_report
from medexp.data.integrity.thumbnails import thumbnail

ROOT = Path("/data/liver [1]")
NAN = Fault("not_finite", "finite values", "3 voxels", "replace them", case_id="a", file=ROOT / "images" / "a.nii.gz")
PATCH = Fault("patch_not_divisible", "a patch", "(9, 9)", "take [8,8]")


def warning(number: int) -> Fault:
    return Fault(
        "empty_label", "foreground", "none", "look", f"w{number}", ROOT / "masks" / f"w{number}.png", Severity.WARNING
    )


def report(*faults: Fault, mode: Mode = Mode.ERROR, ids: str = "abc") -> Report:
    return Report("liver", mode, tuple(case(one) for one in ids), faults)


def printed(told: Report, *, width: int = 10_000, every: bool = False) -> str:
    stream = io.StringIO()
    print_report(told, Console(file=stream, width=width), every=every)
    return stream.getvalue()


def test_json_holds_every_fault_with_all_its_fields() -> None:
    plain = json.loads(json.dumps(report(NAN, PATCH, warning(1), mode=Mode.QUARANTINE).as_plain()))
    assert (plain["dataset"], plain["cases"], plain["errors"], plain["warnings"]) == ("liver", 3, 2, 1)
    assert plain["quarantined"] == ["a"]
    assert plain["faults"][0] == {
        "check": "not_finite",
        "severity": "error",
        "case_id": "a",
        "file": "/data/liver [1]/images/a.nii.gz",
        "expected": "finite values",
        "found": "3 voxels",
        "remedy": "replace them",
    }
    assert plain["faults"][1]["file"] is None


def test_each_error_is_a_line_with_all_that_is_known_of_it() -> None:
    text = printed(report(NAN, PATCH, warning(1)))
    lines = text.splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["error", "not_finite"],
        ["error", "patch_not_divisible"],
        ["warning", "empty_label"],
    ]
    for word in ("a", "images/a.nii.gz", "finite values", "3 voxels", "replace them"):
        assert word in lines[1]
    assert "files are in /data/liver [1]" in text
    assert (
        lines[-1] == "liver: 3 cases checked, 2 errors (not_finite 1, patch_not_divisible 1), 1 warning (empty_label 1)"
    )


def test_many_warnings_of_a_kind_are_shortened_and_errors_never() -> None:
    errors = [Fault("not_finite", "x", "y", "z", case_id=f"e{n}") for n in range(20)]
    told = report(*errors, *(warning(n) for n in range(10)))
    text = printed(told)
    assert all(f"e{n}" in text for n in range(20))
    assert "and 7 more warnings empty_label (--all shows them)" in text
    assert "w9" not in text
    assert "w9" in printed(told, every=True)


def test_a_narrow_terminal_loses_no_letter() -> None:
    text = "".join(printed(report(NAN), width=60).split())
    assert "replace" in text
    assert NAN.check in text.replace("\n", "")


def test_a_report_without_faults_is_one_line() -> None:
    assert printed(report()) == "liver: 3 cases checked, 0 errors, 0 warnings\n"


class Drawn:
    """A source for the page: case "b" cannot be read."""

    name = "drawn"
    spatial_dims = 2
    channels = ("image",)
    labels: dict[int, str] = {}  # noqa: RUF012
    public = True

    def cases(self) -> list[Case]:
        return [case(one) for one in "abcdefgh"]

    def read(self, case: Case) -> Image:
        if case.case_id == "b":
            raise OSError("gone")
        return image(of=case)


class Pictures(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "img":
            self.found.append(str(values["alt"]))
            kind, _, content = str(values["src"]).partition(",")
            assert kind == "data:image/png;base64"
            assert imread(io.BytesIO(base64.b64decode(content)), format="png").ndim == 3
        self.links += [
            str(value) for key, value in attrs if key in ("href", "src") and not str(value).startswith("data:")
        ]


def test_the_page_shows_every_fault_and_pictures_of_faulty_and_good_cases(tmp_path: Path) -> None:
    gone = Fault("unreadable", "to be read", "gone", "restore it", case_id="b")
    write_page(report(NAN, gone, PATCH, ids="abcdefgh"), Drawn(), tmp_path / "sub" / "page.html")
    text = (tmp_path / "sub" / "page.html").read_text()
    for word in ("not_finite", "unreadable", "patch_not_divisible", "replace them", "restore it", "take [8,8]"):
        assert word in text
    pictures = Pictures(text)
    assert pictures.found == ["a", "c", "d", "e", "f", "g", "h"]
    assert pictures.links == []
    assert not re.search(r"https?://|@import|<script", text)


def test_what_a_file_says_is_no_part_of_the_page(tmp_path: Path) -> None:
    evil = Fault("unreadable", "x", "<script>alert(1)</script>", "y & z", case_id="<img src=x>")
    write_page(report(evil), None, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<script>" not in text
    assert "<img" not in text
    assert "&lt;script&gt;" in text


def test_a_sound_dataset_has_a_page_too(tmp_path: Path) -> None:
    write_page(report(ids="ab"), Drawn(), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "Nothing is wrong" in text
    assert Pictures(text).found == ["a"]


def drawn(read: Image) -> np.ndarray:
    return (imread(io.BytesIO(thumbnail(read)), format="png")[..., :3] * 255).round().astype(int)


def coloured(picture: np.ndarray) -> np.ndarray:
    return (picture.max(axis=-1) - picture.min(axis=-1)) > 0


def test_a_thumbnail_has_the_border_of_the_mask_in_colour_at_its_place() -> None:
    mask = np.zeros((12, 24), dtype=np.uint8)
    mask[3:6, 6:12] = 1
    picture = drawn(image(noise(1, 12, 24), mask=mask))
    assert picture.shape[:2] == (120, 240)
    rows, columns = np.nonzero(coloured(picture))
    assert (rows.min(), rows.max() + 1) == (30, 60)
    assert (columns.min(), columns.max() + 1) == (60, 120)
    assert not coloured(picture)[40:50, 70:110].any()


def test_a_volume_is_cut_across_its_longest_voxels_where_most_is_to_be_seen_with_true_lengths() -> None:
    mask = np.zeros((10, 20, 6), dtype=np.uint8)
    mask[2:8, 5:15, 4] = 1
    read = image(noise(1, 10, 20, 6), spacing=(2.0, 1.0, 5.0), mask=mask)
    picture = drawn(read)
    assert picture.shape[:2] == (240, 240)  # 20 mm x 20 mm, the first axis to the right and the second upwards
    rows, columns = np.nonzero(coloured(picture))
    assert (columns.min(), columns.max() + 1) == (48, 192)
    assert (rows.min(), rows.max() + 1) == (60, 180)


@pytest.mark.parametrize(
    "objects",
    [boxes([3, 4, 6, 8]), boxes([-50, 4, 6, 800]), boxes([5, 5, 5, 5]), boxes([6, 8, 3, 4]), boxes([np.nan, 0, 1, 1])],
    ids=["inside", "outside", "point", "reversed", "not finite"],
)
def test_boxes_are_drawn_whatever_is_wrong_with_them(objects: Objects) -> None:
    picture = drawn(image(noise(1, 10, 10), objects=objects))
    assert coloured(picture).any() == np.isfinite(objects.boxes).all()


@pytest.mark.parametrize("pixels", [np.full((1, 6, 5), np.nan), np.zeros((1, 6, 5)), noise(3, 6, 5), noise(2, 6, 5)])
def test_bad_pixels_and_any_number_of_channels_are_drawn(pixels: np.ndarray) -> None:
    assert drawn(image(pixels)).shape == (240, 200, 3)


def test_a_volume_without_annotation_is_cut_in_the_middle() -> None:
    pixels = np.zeros((1, 8, 8, 5))
    pixels[..., 2] = square((8, 8))
    assert drawn(image(pixels, image_labels=(1,))).max() == 255

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import medexp
from medexp.cli.main import main
from medexp.engine.build import build
from medexp.engine.dataset_cases import DatasetCases

_SMALL = (
    "dataset.source.n_cases=4", "dataset.source.shape=[32,40]", "dataset.patch_size=[16,24]",
    "dataset.split.n_folds=2", "dataset.workers=0",
)  # fmt: skip


def _words(here: Path, *words: str, dataset: str = "phantom_2d") -> list[str]:
    given = {word.partition("=")[0] for word in words}
    small = [word for word in _SMALL if word.partition("=")[0] not in given]
    return [f"dataset={dataset}", *small, f"paths.cache={here / 'cache'}", *words]


def _printed(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["data", "show", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_first_case_is_drawn_with_its_annotation(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _printed(capsys, *_words(here)) == ["shown/case_0000_contour.png"]
    assert Path("shown/case_0000_contour.png").stat().st_size > 1000


@pytest.mark.parametrize("dataset", ["nuclei", "lesion_boxes", "lesion_labels"])
def test_whatever_is_annotated_is_drawn_without_naming_a_task(
    here: Path, capsys: pytest.CaptureFixture[str], dataset: str
) -> None:
    words = _words(here, "--case", "case_0001", "--format", "html", "-o", "page.html", dataset=dataset)
    assert _printed(capsys, *words) == ["page.html"]
    assert "case_0001" not in Path("page.html").read_text()


def test_patches_are_those_of_training_with_their_parameters(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = _words(here, "augmentation=light", "fold=1")
    cases = DatasetCases(medexp.compose(None, words))
    config = medexp.compose(None, words)
    samples = build(config).data.samples
    name = samples.cases[0].case_id
    lines = _printed(capsys, *words, "--case", name, "--augmented", "2", "-o", str(here / "out"))
    numbers = [json.loads(line)["sample"] for line in lines[::2]]
    assert lines[1::2] == [str(here / "out" / f"{name}_sample{number}_contour.png") for number in numbers]
    for number, line, (patch, known, parameters) in zip(numbers, lines[::2], cases.patches(name, 2), strict=True):
        case_id, pixels, targets = samples[number]
        assert case_id == name
        assert np.array_equal(patch.pixels, pixels.numpy())
        assert np.array_equal(known.mask, targets["semantic"].numpy())
        assert (
            json.loads(line)
            == json.loads(json.dumps(parameters))
            == json.loads(json.dumps(samples.parameters_of(number)))
        )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--case", "case_00001"], "has no case case_00001; did you mean case_000"),
        (["--augmented", "-1"], "--augmented needs a whole number from 0 on, got -1"),
        (["--augmented", "2", "-o", "one.png"], "is one file, and 2 pictures are drawn"),
        (["--augmented", "1", "model=auto", "dataset.patch_size=auto"], "patches need a value for dataset.patch_size"),
    ],
)
def test_wrong_use_is_told(here: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    assert main(["data", "show", *_words(here, *words)]) == 2
    assert told in capsys.readouterr().err


def test_a_case_that_is_held_out_has_no_patches(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held_out = build(medexp.compose(None, _words(here))).data.parts.val[0].case_id
    assert main(["data", "show", *_words(here), "--case", held_out, "--augmented", "1"]) == 2
    assert f"case {held_out} is not trained on in fold 0" in capsys.readouterr().err

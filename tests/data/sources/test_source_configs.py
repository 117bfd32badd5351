from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

import pytest
from omegaconf import OmegaConf

CONF = Path(__file__).parents[3] / "conf" / "dataset"


@pytest.mark.parametrize("name", ["phantom_2d", "phantom_3d", "nuclei", "msd", "mni_white_matter"])
def test_the_config_lists_every_knob_of_its_source_with_a_fit_value(name: str, tmp_path: Path) -> None:
    if name == "mni_white_matter":
        pytest.importorskip("nilearn", reason="needs nilearn, the extra 'demo'")
    (tmp_path / "dataset.json").write_text('{"modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ"}}')
    known = OmegaConf.create({"paths": {"cache": str(tmp_path)}, "dataset": {"root": str(tmp_path)}})
    knobs = OmegaConf.to_container(OmegaConf.merge(known, OmegaConf.load(CONF / f"{name}.yaml")), resolve=True)[
        "source"
    ]
    module, _, class_name = knobs.pop("_target_").rpartition(".")
    source_class = getattr(import_module(module), class_name)
    assert list(knobs) == list(inspect.signature(source_class).parameters)
    source = source_class(**knobs)
    assert 0 in source.labels
    assert source.spatial_dims in (2, 3)
    assert len(source.channels) == 1


@pytest.mark.parametrize("name", ["phantom_2d", "phantom_3d", "nuclei", "msd", "mni_white_matter"])
def test_the_patch_has_the_dimensions_of_the_source(name: str) -> None:
    config = OmegaConf.load(CONF / f"{name}.yaml")
    assert len(config.patch_size) == config.source.get("spatial_dims", 3)

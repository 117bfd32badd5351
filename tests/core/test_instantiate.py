from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import medexp
from medexp.core import instantiate as module
from medexp.core.errors import UsageError
from medexp.core.instantiate import check_targets, instantiate, targets, trust_folders, user_module_file

FOCAL = {"_target_": "medexp.losses.focal.Focal", "sigmoid": False, "gamma": 2.0, "alpha": None}


@pytest.fixture
def user_folder(tmp_path, monkeypatch):
    """A folder for the user's own modules; the import path and the modules are restored afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(module, "_user_folders", [])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def build(node, key="loss", **arguments):
    return instantiate(OmegaConf.create(node), key, **arguments)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.hub.load",
        "torch.load",
        "builtins.eval",
        "eval",
        "subprocess.run",
        "hydra.utils.get_method",
        "numpy.load",
        "monai.bundle.run",
        "__main__.anything",
        "torchnn.Linear",
        "",
    ],
)
def test_targets_outside_the_trusted_packages_are_refused_by_key(target):
    with pytest.raises(UsageError, match=r"loss\.terms\.dice\._target_ is .*neither one of the trusted packages"):
        build({**FOCAL, "terms": {"dice": {"_target_": target}}})


@pytest.mark.parametrize(
    ("target", "home"),
    [
        ("torch.nn.functional.torch.hub.load", "torch"),
        ("torch.nn.functional.importlib.import_module", "importlib"),
        ("medexp.core.environment.os.system", "os"),
        ("medexp.core.environment.subprocess.run", "subprocess"),
        ("medexp.core.record.quote", "urllib.parse"),
        ("torchvision.models._api.load_state_dict_from_url", "torch.hub"),
    ],
)
def test_names_that_lead_out_of_a_trusted_package_are_refused(target, home):
    with pytest.raises(UsageError, match=rf"model\._target_ is {target}: comes from {home}, neither"):
        build({"_target_": target}, key="model")


def test_a_refused_target_is_not_called(tmp_path):
    with pytest.raises(UsageError):
        build({"_target_": "medexp.core.environment.os.mkdir", "path": str(tmp_path / "made")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "target",
    [
        "torch.nn.Linear",
        "torch.nn.functional.gelu",
        "torch.nn.functional.conv2d",
        "torch.optim.AdamW",
        "torch.optim.lr_scheduler.StepLR",
        "monai.networks.nets.UNet",
        "monai.losses.TverskyLoss",
        "monai.inferers.SlidingWindowInferer",
        "torchvision.models.resnet18",
        "torchvision.ops.nms",
        "torchmetrics.Accuracy",
        "pytorch_lightning.callbacks.EMAWeightAveraging",
        "medexp.losses.focal.Focal",
    ],
)
def test_public_names_of_trusted_packages_pass(target):
    check_targets({"_target_": target}, "model")


def test_every_target_is_found_with_its_key():
    node = {"_target_": "a.B", "steps": [{"_target_": "c.D"}, {"of": {"_target_": "e.F"}}]}
    assert list(targets(OmegaConf.create(node), "chain")) == [
        ("chain", "a.B"),
        ("chain.steps[0]", "c.D"),
        ("chain.steps[1].of", "e.F"),
    ]


def test_a_user_module_beside_the_experiment_works(user_folder):
    (user_folder / "my_losses.py").write_text(
        "class Half:\n    def __init__(self, *, factor):\n        self.factor = factor\n"
    )
    with pytest.raises(UsageError, match="neither one of the trusted packages"):
        build({"_target_": "my_losses.Half", "factor": 0.5})
    trust_folders([user_folder])
    assert build({"_target_": "my_losses.Half", "factor": 0.5}).factor == 0.5
    assert user_module_file("my_losses.Half") == user_folder / "my_losses.py"


@pytest.mark.parametrize("has_init", [True, False])
def test_a_user_package_is_known_by_the_file_that_holds_the_class(user_folder, has_init):
    (user_folder / "my_package").mkdir()
    (user_folder / "my_package" / "nets.py").write_text("class Net: pass\n")
    if has_init:
        (user_folder / "my_package" / "__init__.py").write_text("")
    trust_folders([user_folder])
    assert type(build({"_target_": "my_package.nets.Net"})).__name__ == "Net"
    assert user_module_file("my_package.nets.Net") == user_folder / "my_package" / "nets.py"


IMPORTS_WITH_A_TRUSTED_FOLDER = """
import sys
from medexp.core.instantiate import trust_folders
trust_folders([sys.argv[1]])
import colorsys, nibabel
assert not hasattr(colorsys, "evil") and not hasattr(nibabel, "evil")
"""


def test_a_user_module_does_not_shadow_an_installed_package(user_folder):
    for name in ("nibabel", "colorsys", "torch"):
        (user_folder / f"{name}.py").write_text("def evil(): raise AssertionError\n")
    subprocess.run([sys.executable, "-c", IMPORTS_WITH_A_TRUSTED_FOLDER, str(user_folder)], check=True)
    trust_folders([user_folder])
    for name in ("nibabel", "colorsys", "torch"):
        assert user_module_file(f"{name}.evil") is None
        with pytest.raises(UsageError, match="neither one of the trusted packages"):
            build({"_target_": f"{name}.evil"})


def test_an_environment_below_the_working_directory_is_not_the_users_own(user_folder):
    library = user_folder / "env" / "lib"
    library.mkdir(parents=True)
    (library / "some_library.py").write_text("def run(): raise AssertionError\n")
    sys.path.insert(0, str(library))
    trust_folders([user_folder])
    with pytest.raises(UsageError, match="neither one of the trusted packages"):
        build({"_target_": "some_library.run"})


def test_a_wrong_knob_is_told_with_the_nearest_one():
    with pytest.raises(UsageError, match=r"loss cannot be built: .*'gama'; did you mean gamma\?"):
        build({**FOCAL, "gama": 1.0})


def test_a_wrong_knob_is_told_in_a_nested_object_and_beside_further_arguments():
    with pytest.raises(UsageError, match=r"'gama'; did you mean gamma\?"):
        build(
            {"_target_": "medexp.losses.deep_supervision.DeepSupervision", "decay": 0.5, "loss": {**FOCAL, "gama": 1.0}}
        )
    with pytest.raises(UsageError, match=r"loss cannot be built: .*'gama'; did you mean gamma\?"):
        build({**FOCAL, "gama": 1.0}, alpha=None)


def test_a_missing_name_is_told_by_key():
    with pytest.raises(UsageError, match=r"loss cannot be built: Error loading 'medexp\.losses\.focal\.Focl'"):
        build({"_target_": "medexp.losses.focal.Focl"})


def test_an_error_of_the_object_itself_arrives_as_it_is():
    with pytest.raises(UsageError, match=r"^loss\.gamma needs a value >= 0, got -1\.0$"):
        build(
            {
                "_target_": "medexp.losses.deep_supervision.DeepSupervision",
                "decay": 0.5,
                "loss": {**FOCAL, "gamma": -1.0},
            }
        )


def test_further_arguments_replace_keys_and_are_not_built():
    root = OmegaConf.create(
        {"a": 3, "layer": {"_target_": "torch.nn.Linear", "in_features": "${a}", "out_features": "???"}}
    )
    layer = instantiate(root.layer, "layer", out_features=5)
    assert (layer.in_features, layer.out_features) == (3, 5)


def test_partial_lists_and_mappings_are_built():
    factory = build({"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5}, key="optimizer")
    assert isinstance(factory, functools.partial)
    assert factory([torch.nn.Parameter(torch.zeros(1))]).defaults["lr"] == 0.5
    built = build([{"_target_": "torch.nn.ReLU"}, {"a": {"_target_": "torch.nn.Identity"}}])
    assert isinstance(built[0], torch.nn.ReLU)
    assert isinstance(built[1]["a"], torch.nn.Identity)


def test_a_clone_as_working_directory_makes_no_module_of_medexp_the_users() -> None:
    trust_folders([Path(medexp.__file__).parent.parent])
    assert user_module_file("medexp.losses.dice.Dice") is None
    with pytest.raises(UsageError, match="trust"):
        check_targets({"_target_": "medexp.core.environment.os.getcwd"}, "loss")

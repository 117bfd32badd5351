"""What every dense network under conf/model promises."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from medexp.core.errors import UsageError
from medexp.models.adapter import DEEP_SUPERVISION, build_model, fit_size
from medexp.models.fitting import nearest_fit

torch.set_num_threads(1)
CONF = Path(__file__).parents[2] / "conf" / "model"
HEADS = {"semantic": 2, "distance": 1}
NOT_DENSE = {
    "densenet": "classifies",
    "mask_rcnn": "finds objects",
    "mask_retinanet": "finds objects",
    "retinanet": "judges anchors",
    "auto": "is planned",
}
PACKAGES = {"unetr": "einops", "swin_unetr": "einops", "encoder_unet": "segmentation_models_pytorch"}
ONLY_2D, ONLY_3D = {"encoder_unet"}, {"convrnn_unet"}
DENSE = sorted(file.stem for file in CONF.glob("*.yaml") if file.stem not in NOT_DENSE)
CASES = [(name, dims) for name in DENSE for dims in (2, 3) if name not in (ONLY_3D if dims == 2 else ONLY_2D)]
FEWEST_DIMS = [(name, 3 if name in ONLY_3D else 2) for name in DENSE]
# Volumes in the soak.
LONG_IN_3D = {"swin_unetr", "unet_plus_plus", "vnet"}
# In the fewest dimensions, the others in the soak.
SUPERVISED = [
    pytest.param(name, dims, marks=[pytest.mark.soak] if (name, dims) not in FEWEST_DIMS else [])
    for name, dims in CASES
    if any("deep_supervision" in knob for knob in OmegaConf.load(CONF / f"{name}.yaml"))
]
# These pad, so that any size passes.
ANY_SIZE = {"basic_unet", "unet_plus_plus", "encoder_unet"}


def built(name: str, dims: int, *, seed: int = 0, size: tuple[int, ...] | None = None, **knobs) -> torch.nn.Module:
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    config = OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), knobs)
    assert isinstance(config, DictConfig)
    torch.manual_seed(seed)
    factory = instantiate(config, _convert_="all")
    return build_model(factory, spatial_dims=dims, in_channels=2, heads=HEADS, image_size=size or (16,) * dims)


@functools.cache
def small_size(name: str, dims: int) -> tuple[int, ...]:
    size = nearest_fit(built(name, dims), in_channels=2, size=(16,) * dims)
    assert size is not None
    return size


def patch_for(name: str, dims: int, *, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 2, *small_size(name, dims), generator=torch.Generator().manual_seed(0))


def shapes(maps: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {head: tuple(values.shape) for head, values in maps.items()}


# In 2D where that can be: processors without bf16 need seconds for a convolution in 3D.
@pytest.mark.parametrize(("name", "dims"), FEWEST_DIMS)
def test_maps_are_finite_in_bf16(name: str, dims: int) -> None:
    model, patch = built(name, dims).eval(), patch_for(name, dims)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(patch)
    assert any(values.dtype == torch.bfloat16 for values in outputs.values())
    assert all(values.isfinite().all() for values in outputs.values())


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        pytest.param(name, dims, marks=[pytest.mark.soak] if dims == 3 and name in LONG_IN_3D else [])
        for name, dims in CASES
    ],
)
def test_maps_have_the_patch_s_size_and_follow_from_weights_that_each_have_a_gradient(name: str, dims: int) -> None:
    model, other = built(name, dims), built(name, dims, seed=1)
    patch = patch_for(name, dims, batch=2)
    with torch.no_grad():
        # Some networks start with zeros, which keep gradients from what lies before them.
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        stored, loaded = model.eval()(patch), other.eval()(patch)
    assert shapes(stored) == {head: (2, channels, *patch.shape[2:]) for head, channels in HEADS.items()}
    assert all(torch.equal(stored[head], loaded[head]) for head in HEADS)
    outputs = model.train()(patch)
    assert list(outputs) == list(HEADS)
    torch.stack([maps.square().mean() for maps in outputs.values()]).sum().backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    assert [key for key, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []
    # The bias before a normalisation has none but rounding; weights do.
    weights = {key: gradient for key, gradient in gradients.items() if gradient.ndim > 1}
    assert [key for key, gradient in weights.items() if not gradient.any()] == []


@pytest.mark.parametrize(("name", "dims"), SUPERVISED)
def test_coarser_maps_have_a_key_of_their_own_in_training_only(name: str, dims: int) -> None:
    knobs = OmegaConf.load(CONF / f"{name}.yaml")
    knob = {"deep_supervision": True} if "deep_supervision" in knobs else {"deep_supervision_levels": 1}
    model = built(name, dims, **knob).train()
    patch = patch_for(name, dims)
    outputs = model(patch)
    levels = outputs.pop(DEEP_SUPERVISION)
    assert shapes(outputs) == {head: (1, channels, *patch.shape[2:]) for head, channels in HEADS.items()}
    assert len(levels) > 0
    voxels = [outputs["semantic"][0, 0].numel(), *(level["semantic"][0, 0].numel() for level in levels)]
    assert voxels == sorted(voxels, reverse=True)
    assert all({head: maps.shape[1] for head, maps in level.items()} == HEADS for level in levels)
    terms = [maps.square().mean() for maps_of in (outputs, *levels) for maps in maps_of.values()]
    torch.stack(terms).sum().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    with torch.no_grad():
        assert list(model.eval()(patch)) == list(HEADS)


@pytest.mark.parametrize(("name", "dims"), [(name, dims) for name, dims in FEWEST_DIMS if name not in ANY_SIZE])
def test_a_patch_that_does_not_fit_is_refused_with_the_nearest_that_does(name: str, dims: int) -> None:
    size = (21, 35, 3)[:dims]
    with pytest.raises(UsageError, match=r"choose dataset\.patch_size=\[[\d,]+\]$") as told:
        fit_size(built(name, dims, size=size), torch.zeros(1, 2, *size), dense=True)
    nearest = tuple(map(int, str(told.value).rsplit("[", 1)[1].rstrip("]").split(",")))
    fit_size(built(name, dims, size=nearest), torch.zeros(1, 2, *nearest), dense=True)


@pytest.mark.parametrize("name", sorted(ANY_SIZE))
def test_a_network_that_pads_passes_any_size(name: str) -> None:
    fit_size(built(name, 2), torch.zeros(1, 2, 35, 37), dense=True)


@pytest.mark.parametrize("name", sorted(ONLY_3D))
def test_a_network_for_sequences_is_refused_for_pictures(name: str) -> None:
    with pytest.raises(UsageError, match=f"model={name} needs volumes or sequences"):
        built(name, 2)


@pytest.mark.parametrize("name", sorted(ONLY_2D))
def test_a_network_for_pictures_is_refused_for_volumes(name: str) -> None:
    with pytest.raises(UsageError, match=f"model={name} is for 2D images, got 3D"):
        built(name, 3)

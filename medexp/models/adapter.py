"""Networks of any library under one contract: `model(images) -> {head: map}`, deep supervision in its own key."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medexp.core.errors import UsageError, did_you_mean
from medexp.models.fitting import nearest_fit, other_sizes

DEEP_SUPERVISION = "deep_supervision"


class DenseModel(nn.Module):
    """A network with one output of stacked channels, whose channels are dealt out to heads by name.

    Args:
        network: Returns a map, a list of maps (finest first), or maps stacked on a new axis 1.
        heads: Channels of each head, in the order in which the network stacks them.
        spatial_dims: 2 or 3.
    """

    def __init__(self, network: nn.Module, *, heads: Mapping[str, int], spatial_dims: int) -> None:
        super().__init__()
        self.network = network
        self.heads = dict(heads)
        self.spatial_dims = spatial_dims

    def forward(self, images: Float[Tensor, "batch channels *spatial"]) -> dict[str, Any]:
        """The maps of each head; in training also a list of coarser maps under "deep_supervision", if there are any."""
        maps = _as_list(self.network(images), self.spatial_dims)
        outputs: dict[str, Any] = self._deal(maps[0])
        if self.training and len(maps) > 1:
            outputs[DEEP_SUPERVISION] = [self._deal(coarser) for coarser in maps[1:]]
        return outputs

    def _deal(self, maps: Tensor) -> dict[str, Tensor]:
        return dict(zip(self.heads, maps.split(list(self.heads.values()), dim=1), strict=True))


def _as_list(output: Tensor | Sequence[Tensor], spatial_dims: int) -> list[Tensor]:
    if not isinstance(output, Tensor):
        return list(output)
    return list(output.unbind(1)) if output.ndim == spatial_dims + 3 else [output]


def build_model(
    factory: Callable[..., nn.Module],
    *,
    spatial_dims: int,
    in_channels: int,
    heads: Mapping[str, int],
    image_size: Sequence[int],
) -> nn.Module:
    """Call a model factory with what it asks for.

    A factory that takes `heads` obeys the contract itself. Any other is called with `out_channels`, the sum of the
    heads' channels, as MONAI's networks take it, and its output is dealt out to the heads.

    Args:
        factory: Class or function with all other arguments bound.
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        heads: Channels of each map that the task needs.
        image_size: Spatial shape of a training patch, for networks whose size depends on it.

    Returns:
        A module `model(images) -> dict`.

    Raises:
        UsageError: The factory takes neither `heads` nor `out_channels`, has no such knob, or refuses its arguments.
    """
    available: dict[str, Any] = {
        "spatial_dims": spatial_dims,
        "in_channels": in_channels,
        "heads": dict(heads),
        "out_channels": sum(heads.values()),
        "img_size": tuple(image_size),
    }
    target = factory.func if isinstance(factory, functools.partial) else factory
    accepted = inspect.signature(target).parameters
    knobs = factory.keywords if isinstance(factory, functools.partial) else {}
    _check_knobs(knobs, accepted, target, fixed=available.keys() - {"img_size"})
    given = {name: value for name, value in available.items() if name in accepted and name not in knobs}
    if "heads" in given:
        given.pop("out_channels", None)
    elif "out_channels" not in given:
        raise UsageError(f"model {_name(target)} takes neither `heads` nor `out_channels`; see docs on adding a model")
    try:
        network = factory(**given)
    except (TypeError, ValueError, LookupError, AssertionError, RuntimeError) as error:
        raise UsageError(f"model {_name(target)} cannot be built: {error}; check the keys under `model`") from error
    return network if "heads" in given else DenseModel(network, heads=heads, spatial_dims=spatial_dims)


def _check_knobs(
    knobs: Mapping[str, Any], accepted: Mapping[str, inspect.Parameter], target: Any, *, fixed: Collection[str]
) -> None:
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in accepted.values())
    for name in knobs:
        if name in fixed:
            raise UsageError(f"model.{name} follows from dataset and task; remove it from the model's options")
        if name not in accepted and not takes_any:
            known = [other for other in accepted if other not in fixed]
            raise UsageError(f"model {_name(target)} has no knob {name}{did_you_mean(name, known)}")


def _name(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


def fit_size(model: nn.Module, patch: Tensor, *, dense: bool) -> None:
    """Run one patch through a model, which stays as it was, so that a size that does not fit is told before training.

    Args:
        model: A model under the contract of dense models.
        patch: Images of shape (batch, channels, *spatial).
        dense: The task needs maps of the patch's size.

    Raises:
        UsageError: The patch does not pass the network, or a map comes out in another size.
    """
    size = tuple(patch.shape[2:])
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(patch)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(
            f"a patch of {size} does not pass the network: {error}; choose {_fitting(model, patch, dense=dense)}"
        ) from error
    finally:
        model.train(was_training)
    for head, other in other_sizes(outputs, size):
        if dense:
            raise UsageError(
                f"model gives {head} in size {other} for a patch of {size}; choose {_fitting(model, patch, dense=True)}"
            )


def _fitting(model: nn.Module, patch: Tensor, *, dense: bool) -> str:
    """The remedy for a patch that does not fit."""
    found = nearest_fit(model, in_channels=patch.shape[1], size=patch.shape[2:], dense=dense)
    if found is None:
        return "dataset.patch_size divisible by the product of the strides"
    return f"dataset.patch_size={list(found)}".replace(" ", "")

"""Which parameters decay, and by how much the learning rate of each layer falls."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from medexp.core.errors import UsageError, did_you_mean

_NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)
# Learned tables that are bare parameters, by the names that MONAI, timm and torchvision give them.
_TABLES = (
    "*pos_embed*",
    "*position_embedding*",
    "*pos_embedding*",
    "*cls_token*",
    "*class_token*",
    "*relative_position_bias_table*",
)


class ParameterGroups:
    """Divides a model's parameters into the groups of an optimiser, those nearest to the output first.

    A layer is one weight of two axes or more with all parameters that follow it up to the next such weight, in the
    order in which the model holds its modules: that from input to output in the usual networks, and that in which a
    U-Net holds its levels. Where that order is another, `layers` says it. The learning rate of a layer is
    `layer_decay` times that of the layer behind it, as for ELECTRA (Clark et al., ICLR 2020) and BEiT (Bao et al., ICLR
    2022); the last one has the optimiser's own.

    Args:
        decay_norm_and_bias: Whether weight decay concerns parameters of at most one axis (biases, scales, slopes),
            all of norm layers, embeddings, position tables and class tokens.
        no_decay: Patterns of further parameters without weight decay.
        layer_decay: Learning rate of a layer relative to that of the layer behind it.
        layers: Patterns of parameter names from input to output, a layer each; a parameter belongs to the first that
            matches. Empty: as above.

    Raises:
        UsageError: A knob has an unfit value.
    """

    def __init__(
        self, *, decay_norm_and_bias: bool, no_decay: Sequence[str], layer_decay: float, layers: Sequence[str]
    ) -> None:
        if not 0 < layer_decay <= 1:
            raise UsageError(f"parameter_groups.layer_decay needs a value in (0, 1], got {layer_decay}")
        self.decay_norm_and_bias = decay_norm_and_bias
        self.no_decay = tuple(no_decay)
        self.layer_decay = layer_decay
        self.layers = tuple(layers)

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The groups of the parameters that are trained.

        Args:
            model: Has the parameters.

        Returns:
            Groups with `params`, their `names`, `depth` (layers behind it) and `decays`; within one, in the model's
            order.

        Raises:
            UsageError: A pattern matches nothing, or a parameter belongs to no layer.
        """
        depths = self._depths(model)
        spared = self._spared(model)
        found: dict[tuple[int, bool], dict[str, Any]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                depth, decays = depths[name] if self.layer_decay != 1 else 0, name not in spared
                empty: dict[str, Any] = {"params": [], "names": [], "depth": depth, "decays": decays}
                group = found.setdefault((depth, not decays), empty)
                group["params"].append(parameter)
                group["names"].append(name)
        return [found[key] for key in sorted(found)]

    def optimizer(
        self, factory: Callable[..., Optimizer], model: nn.Module, *, also: Iterable[nn.Parameter] = ()
    ) -> Optimizer:
        """An optimiser of a model's groups.

        Args:
            factory: Makes an optimiser from parameters or groups of them.
            model: Has the parameters.
            also: Further parameters, which go with the last layer.

        Returns:
            The optimiser, its learning rates those before any schedule.

        Raises:
            UsageError: A pattern matches nothing, or a parameter belongs to no layer.
        """
        groups = self.groups(model)
        groups[0]["params"] += [parameter for parameter in also if parameter.requires_grad]
        if len(groups) == 1 and groups[0]["decays"] and groups[0]["depth"] == 0:
            return factory(groups[0]["params"])
        spared = {"weight_decay": 0.0}
        optimizer = factory([{"params": group["params"], **({} if group["decays"] else spared)} for group in groups])
        for made, group in zip(optimizer.param_groups, groups, strict=True):
            made["lr"] *= self.layer_decay ** group["depth"]
        return optimizer

    def _spared(self, model: nn.Module) -> set[str]:
        """Names of the parameters without weight decay."""
        names = [name for name, _ in model.named_parameters()]
        found = {name for pattern in self.no_decay for name in _matching(pattern, names, knob="no_decay")}
        if self.decay_norm_and_bias:
            return found
        for prefix, module in model.named_modules():
            for name, parameter in module.named_parameters(prefix, recurse=False):
                is_table = any(fnmatch.fnmatch(name, pattern) for pattern in _TABLES)
                if parameter.ndim <= 1 or is_table or isinstance(module, (*_NORMS, nn.Embedding)):
                    found.add(name)
        return found

    def _depths(self, model: nn.Module) -> dict[str, int]:
        """Number of layers behind each parameter's."""
        if self.layers:
            layer_of = self._by_pattern([name for name, _ in model.named_parameters()])
        else:
            layer_of, layer = {}, -1
            for name, parameter in model.named_parameters():
                layer += parameter.ndim > 1
                layer_of[name] = max(0, layer)
        last = max(layer_of.values())
        return {name: last - layer for name, layer in layer_of.items()}

    def _by_pattern(self, names: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        for layer, pattern in enumerate(self.layers):
            for name in _matching(pattern, names, knob="layers"):
                found.setdefault(name, layer)
        left = [name for name in names if name not in found]
        if left:
            raise UsageError(
                f"parameter_groups.layers says of {len(left)} parameters in no pattern which layer they belong to "
                f"({', '.join(left[:5])}); add patterns, e.g. '*' as the last"
            )
        return found


def _matching(pattern: str, names: Sequence[str], *, knob: str) -> list[str]:
    found = fnmatch.filter(names, pattern)
    if not found:
        raise UsageError(
            f"parameter_groups.{knob}: pattern {pattern} matches no parameter{did_you_mean(pattern, names)}"
        )
    return found

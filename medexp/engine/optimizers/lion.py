"""Lion, which torch has not got."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from medexp.core.errors import UsageError


class Lion(Optimizer):
    """Each weight moves by the learning rate, in the direction of a momentum's sign (Chen et al., 2023, algorithm 2).

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
        betas: Memory of the momentum in the step, and of the momentum that is kept.
        weight_decay: Decay, decoupled from the gradient.

    Raises:
        UsageError: A knob has an unfit value.
    """

    def __init__(self, params: Iterable[Any], *, lr: float, betas: Sequence[float], weight_decay: float) -> None:
        if lr < 0 or weight_decay < 0:
            raise UsageError(f"optimizer.lr and weight_decay need values >= 0, got {lr} and {weight_decay}")
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise UsageError(f"optimizer.betas needs two values in [0, 1), got {list(betas)}")
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step.

        Args:
            closure: Computes loss and gradients anew, where given.

        Returns:
            What the closure returns, or None.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        in_step, kept = group["betas"]
        direction = torch.lerp(gradient, state["momentum"], in_step).sign_()
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])
        state["momentum"].lerp_(gradient, 1.0 - kept)

"""AdamW without a schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from medexp.core.errors import UsageError
from medexp.engine.optimizers.averaging import AveragingOptimizer


class ScheduleFreeAdamW(AveragingOptimizer):
    """Steps of AdamW, averaged as they come (Defazio et al., "The Road Less Scheduled", NeurIPS 2024, algorithm 1).

    z are the steps, x their average weighted by the square of the learning rate, and gradients are taken at
    y = (1 - beta) z + beta x. The mean square is corrected for its start as in Adam. Both z and x are held, which takes
    the memory of one more copy of the weights than Adam does, so that y follows from them bitwise.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate; a warm-up belongs in front of it.
        beta: Where gradients are taken: 0 at the last step, 1 at the average.
        beta2: Memory of the mean square.
        eps: Added to its root.
        weight_decay: Decay at y, decoupled from the gradient.

    Raises:
        UsageError: A knob has an unfit value.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float, beta: float, beta2: float, eps: float, weight_decay: float
    ) -> None:
        if lr < 0 or weight_decay < 0 or eps < 0:
            raise UsageError(f"optimizer.lr, eps and weight_decay need values >= 0, got {lr}, {eps} and {weight_decay}")
        if not (0 <= beta < 1 and 0 <= beta2 < 1):
            raise UsageError(f"optimizer.beta and beta2 need values in [0, 1), got {beta} and {beta2}")
        super().__init__(params, {"lr": lr, "beta": beta, "beta2": beta2, "eps": eps, "weight_decay": weight_decay})
        for group in self.param_groups:
            group["steps"], group["weight_sum"] = 0, 0.0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step.

        Args:
            closure: Computes loss and gradients anew, where given.

        Returns:
            What the closure returns, or None.

        Raises:
            RuntimeError: The parameters are those that are judged.
        """
        if self.judging:
            raise RuntimeError("a step from the average; call go_on() after judge()")
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            group["steps"] += 1
            group["weight_sum"] += group["lr"] ** 2
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state |= {"z": parameter.clone(), "x": parameter.clone(), "mean_square": torch.zeros_like(parameter)}
        z, x, mean_square = state["z"], state["x"], state["mean_square"]
        lr, beta2 = group["lr"], group["beta2"]
        mean_square.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
        scale = (mean_square / (1.0 - beta2 ** group["steps"])).sqrt_().add_(group["eps"])
        z.add_(parameter, alpha=-lr * group["weight_decay"]).addcdiv_(gradient, scale, value=-lr)
        # Where all learning rates so far were 0, z and x are the same.
        x.lerp_(z, lr**2 / group["weight_sum"] if group["weight_sum"] > 0 else 0.0)
        parameter.copy_(torch.lerp(z, x, group["beta"]))

    @torch.no_grad()
    def _write_judged(self) -> None:
        for parameter, state in self.state.items():
            parameter.copy_(state["x"])

    @torch.no_grad()
    def _write_trained(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state.get(parameter)
                if state:
                    parameter.copy_(torch.lerp(state["z"], state["x"], group["beta"]))

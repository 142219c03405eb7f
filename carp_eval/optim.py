"""Optimisers and schedules, for pretraining and probes alike."""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from carp_eval.cards.recipe import OptimiserCard


class LARS(torch.optim.Optimizer):
    """SGD whose rate is scaled per tensor by ||w|| / ||g + decay w|| (You et al., 2017).

    Groups with `adapt = False` (biases, norms) are plain SGD with momentum.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        adapt: bool = True,
    ) -> None:
        """Set the defaults of all groups.

        Args:
            params: Parameters, or groups of them; a group may override any default.
            lr: Learning rate.
            momentum: Momentum of the velocity.
            weight_decay: Added to the gradient, times the weight.
            trust: The share of its own norm by which a tensor may move at rate 1.
            adapt: Whether the rate is scaled per tensor.
        """
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust": trust,
            "adapt": adapt,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, group)
        return loss

    def _move(self, parameter: Tensor, group: dict[str, Any]) -> None:
        assert parameter.grad is not None
        update = parameter.grad.add(parameter, alpha=group["weight_decay"])
        if group["adapt"]:
            weight_norm, update_norm = parameter.norm(), update.norm()
            scale = torch.where(
                (weight_norm > 0) & (update_norm > 0), group["trust"] * weight_norm / update_norm, 1.0
            )
            update.mul_(scale)
        state = self.state[parameter]
        if "velocity" not in state:
            state["velocity"] = torch.zeros_like(parameter)
        state["velocity"].mul_(group["momentum"]).add_(update)
        parameter.sub_(state["velocity"], alpha=group["lr"])


def build(card: OptimiserCard, module: nn.Module) -> torch.optim.Optimizer:
    """Build a recipe's optimiser over a module's trainable parameters.

    Tensors with more than one axis get weight decay and, under LARS, the adapted rate; biases and
    norms get neither.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    matrices = {"params": [p for p in trainable if p.ndim > 1], "weight_decay": card.weight_decay}
    vectors = {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0}
    match card.name:
        case "lars":
            groups = [matrices, vectors | {"adapt": False}]
            return LARS(groups, lr=card.lr, momentum=card.momentum, trust=card.trust)
        case "sgd":
            return torch.optim.SGD([matrices, vectors], lr=card.lr, momentum=card.momentum)
        case "adamw":
            return torch.optim.AdamW([matrices, vectors], lr=card.lr)


def interpolate(
    schedule: Literal["constant", "linear", "cosine"], start: float, end: float | None, *, progress: float
) -> float:
    """Return a scheduled value.

    Args:
        schedule: The shape of the way from start to end; `constant` stays at the start.
        start: Value at progress 0.
        end: Value at progress 1; None is the start.
        progress: Share of the way, in [0, 1].
    """
    if end is None or schedule == "constant":
        return start
    if schedule == "linear":
        return start + (end - start) * progress
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def learning_rate(card: OptimiserCard, *, step: int, num_steps: int, warmup_steps: int) -> float:
    """Return the learning rate of a step: a linear rise from 0, then the card's schedule down.

    Args:
        card: The recipe's optimiser.
        step: The step about to be taken, from 0.
        num_steps: Steps of the whole training.
        warmup_steps: Steps of the rise.
    """
    if step < warmup_steps:
        return card.lr * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return interpolate(card.schedule, card.lr, card.final_lr, progress=progress)


def set_learning_rate(optimiser: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every group."""
    for group in optimiser.param_groups:
        group["lr"] = value

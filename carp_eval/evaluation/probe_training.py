"""A linear head that is trained on images, epoch by epoch: what a frozen trunk and a fine-tuned one share.

After each epoch the state goes to disk; a run that was stopped goes on at its last whole epoch, and comes to the same
end as one that was not, to the bit.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from carp_eval import distributed, optim, seeds
from carp_eval.cards.pixel_training import PixelTrainingCard
from carp_eval.errors import TrainingError
from carp_eval.evaluation.unfinished import Unfinished

# Told of images that were trained on since the last call, over all processes.
Tell = Callable[[int], None]


class Training(ABC):
    """Networks under training, with their optimiser and what the epochs have shown so far.

    Attributes:
        card: The protocol.
        modules: What is trained, by name.
        optimiser: Moves it.
        images_per_epoch: Images that an epoch takes.
        losses: Mean loss of each epoch.
        curve: What each epoch was judged at, where it is judged.
        best: The modules' states after the best epoch of the curve.
    """

    def __init__(
        self,
        card: PixelTrainingCard,
        modules: Mapping[str, nn.Module],
        rates: Mapping[str, float],
        *,
        images_per_epoch: int,
    ) -> None:
        """Build the optimiser.

        Args:
            card: The protocol.
            modules: What is trained, by name.
            rates: The learning rate that the card has for each.
            images_per_epoch: Images that an epoch takes.
        """
        self.card = card
        self.modules = dict(modules)
        self.optimiser = build_optimiser(card, [(module, rates[name]) for name, module in modules.items()])
        self.images_per_epoch = images_per_epoch
        self.losses: list[float] = []
        self.curve: list[float] = []
        self.best: dict[str, dict[str, Tensor]] = {}

    @abstractmethod
    def epoch(self, epoch: int, tell: Tell) -> float:
        """Train for an epoch, and return its mean loss."""

    def run(
        self,
        kept: "Kept",
        stage: str,
        *,
        bar: Callable[[int, int], None],
        judge: Callable[[], float] | None = None,
    ) -> None:
        """Train to the end of the card, from where a run that was stopped has left off.

        Args:
            kept: Where states are kept.
            stage: What this training is called there.
            bar: Is told of images done, over all epochs, and how many there are.
            judge: Scores the modules as they are, after each epoch.

        Raises:
            TrainingError: If the loss is not finite.
            StorageError: If a state cannot be kept.
        """
        self._take(kept.of(stage))
        epochs = self.card.epochs
        done, total = len(self.losses) * self.images_per_epoch, epochs * self.images_per_epoch

        def tell(images: int) -> None:
            nonlocal done
            done += images
            bar(done, total)

        for epoch in range(len(self.losses), epochs):
            for group in self.optimiser.param_groups:
                group["lr"] = learning_rate(self.card, group["card_rate"], epoch=epoch)
            loss = self.epoch(epoch, tell)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss is {loss} in epoch {epoch + 1}: the learning rate of {self.card.kind}@"
                    f"{self.card.variant} is too high for these features, give a lower one with --lr"
                )
            self.losses.append(loss)
            if judge is not None:
                self._judge(judge())
            kept.save(stage, self._state())

    def take_best(self) -> None:
        """Go back to the modules after the best epoch of the curve."""
        for name, state in self.best.items():
            self.modules[name].load_state_dict(state)

    def _judge(self, score: float) -> None:
        if score > max(self.curve, default=-math.inf):
            self.best = {
                name: {key: value.clone() for key, value in module.state_dict().items()}
                for name, module in self.modules.items()
            }
        self.curve.append(score)

    def _state(self) -> dict[str, Any]:
        finished = len(self.losses) == self.card.epochs
        return {
            "losses": list(self.losses),
            "curve": list(self.curve),
            "best": self.best,
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimiser": None if finished else self.optimiser.state_dict(),
        }

    def _take(self, state: Mapping[str, Any] | None) -> None:
        if state is None:
            return
        self.losses, self.curve, self.best = list(state["losses"]), list(state["curve"]), state["best"]
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        if state["optimiser"] is not None:
            self.optimiser.load_state_dict(state["optimiser"])


class Kept:
    """The states of one evaluation's trainings, by stage, in the file of what is unfinished."""

    def __init__(self, unfinished: Unfinished) -> None:
        """Read what an earlier run has left; the main process does, for all."""
        self._unfinished = unfinished
        self._states: dict[str, Any] = distributed.on_main(unfinished.load) or {}

    def of(self, stage: str) -> dict[str, Any] | None:
        """Return a stage's state; None if it has not begun."""
        return self._states.get(stage)

    def save(self, stage: str, state: Mapping[str, Any]) -> None:
        """Keep a stage's state beside those of the others.

        Raises:
            StorageError: If the disk is full, read-only or closed to us.
        """
        self._states[stage] = dict(state)
        self._unfinished.save(self._states)


def learning_rate(card: PixelTrainingCard, base: float, *, epoch: int) -> float:
    """Return the learning rate of an epoch.

    Args:
        card: The protocol.
        base: The rate as the card has it.
        epoch: From 0.
    """
    if card.lr_scaling == "batch/256":
        base *= card.batch_size / 256
    if epoch < card.warmup_epochs:
        return base * (epoch + 1) / card.warmup_epochs
    if card.schedule == "steps":
        return base * card.decay ** sum(milestone <= epoch for milestone in card.milestones)
    progress = (epoch - card.warmup_epochs) / max(1, card.epochs - card.warmup_epochs)
    return optim.interpolate(card.schedule, base, 0.0, progress=progress)


def build_optimiser(
    card: PixelTrainingCard, parts: Sequence[tuple[nn.Module, float]]
) -> torch.optim.Optimizer:
    """Build the card's optimiser over modules, each with a learning rate of its own.

    SGD decays every parameter, biases and norms too, as the sources do. A group's `card_rate` is the rate that the
    schedule starts from.
    """
    groups: list[dict[str, Any]] = []
    for module, rate in parts:
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        group = {"lr": rate, "card_rate": rate}
        if card.optimiser == "sgd" or card.adapt_biases:
            groups.append({**group, "params": parameters})
        else:
            groups.append({**group, "params": [p for p in parameters if p.ndim > 1]})
            vectors = [p for p in parameters if p.ndim <= 1]
            groups.append({**group, "params": vectors, "weight_decay": 0.0, "adapt": False})
    groups = [group for group in groups if group["params"]]
    first, momentum, decay = groups[0]["lr"], card.momentum, card.weight_decay
    if card.optimiser == "lars":
        return optim.LARS(groups, lr=first, momentum=momentum, weight_decay=decay, trust=card.trust)
    return torch.optim.SGD(groups, lr=first, momentum=momentum, weight_decay=decay, nesterov=card.nesterov)


def build_head(card: PixelTrainingCard, dim: int, num_classes: int, *, seed: int) -> nn.Linear:
    """Build the classification layer, with weights that depend on the seed alone."""
    head = skip_init(nn.Linear, dim, num_classes)
    assert isinstance(head, nn.Linear)
    chance = seeds.generator(seed, "head")
    nn.init.zeros_(head.bias)
    match card.head_init:
        case "normal":
            nn.init.normal_(head.weight, std=0.01, generator=chance)
        case "uniform":
            for tensor in (head.weight, head.bias):
                nn.init.uniform_(tensor, -(dim**-0.5), dim**-0.5, generator=chance)
        case "zeros":
            nn.init.zeros_(head.weight)
    return head


def told(training: Training) -> list[str]:
    """Say what the epochs have shown, and where the card asks for more than there is."""
    card, count = training.card, training.images_per_epoch
    notes = [
        f"mean training loss {training.losses[0]:.4g} in the first epoch, {training.losses[-1]:.4g} in the last"
    ]
    head = training.modules["head"]
    assert isinstance(head, nn.Linear)
    if training.losses[-1] >= math.log(head.out_features):
        notes.append(
            f"the loss ended no lower than that of guessing, {math.log(head.out_features):.4g}: the learning rates of "
            f"{card.kind}@{card.variant} do not suit this model and data (--lr, and --head-lr where there is one)"
        )
    if count < card.batch_size:
        notes.append(
            f"a batch takes {card.batch_size} images and there are {count}: each epoch was one step of {count}"
        )
    if card.schedule == "steps" and max(card.milestones) >= card.epochs:
        late = ", ".join(str(milestone) for milestone in card.milestones if milestone >= card.epochs)
        notes.append(f"the rate was to fall after epochs {late}, and there were {card.epochs}")
    return notes

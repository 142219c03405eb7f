"""What a pretraining method is to the loop: its networks, its loss of a step, and when it is called.

In a step the loop calls `loss` (for each micro-batch, where the recipe asks for it), takes the gradient, calls
`set_rates` and `before_update`, moves the weights, and then calls `after_update`. An epoch begins with `start_epoch`. A
method that draws something seeds it by the recipe and the step (`seeds.generator`) and keeps all else in its networks
or its `state`, so that a run that was killed goes on to the bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from carp_eval import optim
from carp_eval.cards.recipe import RecipeCard
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.models.network import Network
from carp_eval.pretrain.batches import ViewBatches
from carp_eval.pretrain.signs import few_directions

Recipe = TypeVar("Recipe", bound=RecipeCard)


@dataclass(frozen=True)
class Step:
    """Where a training stands.

    Attributes:
        number: The step, from 0. Where each micro-batch has a loss of its own, their number: of the second step's first
            of four, 4.
        epoch: Its epoch, from 0.
        progress: Share of the training that is done, in [0, 1].
    """

    number: int
    epoch: int
    progress: float


@dataclass(frozen=True)
class Losses:
    """What a step's loss is, and what it shows.

    Attributes:
        total: What is minimised, the same number on every process or its share of a mean; it alone carries a gradient.
        shown: Numbers to log beside it, by name; tensors are read once the step is taken, so that a GPU need not wait.
    """

    total: Float[Tensor, ""]
    shown: Mapping[str, Tensor | float] = field(default_factory=dict[str, Tensor | float])


class Method(ABC, Generic[Recipe]):
    """A pretraining method. A subclass builds its networks from its class of recipe, and takes the loss of a step.

    What is judged later is `trunk` and `head` of its networks, built as `Network` builds them.

    Attributes:
        recipe: What is trained.
        student: The network that gradients move, with all that is trained with it (a predictor, prototypes).
        teacher: The network that follows it; None in a method without.
        sign_names: The shares among what `signs` finds that a line of the log tells, with what it calls them.
    """

    recipe: Recipe
    student: Network
    teacher: Network | None = None
    sign_names: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def loss(self, batch: TrainingBatch, *, student: nn.Module, step: Step) -> Losses:
        """Take the loss of one step.

        Args:
            batch: The views of this process's images, and the images' numbers in the data set.
            student: The student, or what wraps it for several processes or micro-batches: call this one, not
                `self.student`, with images alone. It must give a row for each image, or a tuple of such tensors.
            step: Where the training stands.
        """

    def start_epoch(self, epoch: int, batches: ViewBatches) -> None:
        """Make ready for an epoch, from its first step on: cluster the features of the last, for one.

        A run that goes on in the midst of an epoch does not call it again: what it made must be in `state`.

        Args:
            epoch: The epoch, from 0.
            batches: Where the data come from, should all be looked at.
        """

    def optimiser(self) -> torch.optim.Optimizer:
        """Return the optimiser over the student's parameters: the recipe's, unless a method groups them its own way."""
        return optim.build(self.recipe.optimiser, self.student)

    def set_rates(self, optimiser: torch.optim.Optimizer, rate: float, step: Step) -> None:
        """Set the learning rate of a step in every group of parameters.

        Args:
            optimiser: What `optimiser` returned.
            rate: The rate that the recipe's schedule gives.
            step: Where the training stands.
        """
        del step
        optim.set_learning_rate(optimiser, rate)

    def before_update(self, step: Step) -> None:
        """Do what comes when gradients are there and weights have not moved."""

    def after_update(self, step: Step) -> None:
        """Do what comes when weights have moved, such as a teacher that follows them."""

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold beside networks and optimiser: queues, banks, assignments.

        All processes call it together, and what the first returns is kept: a method whose processes differ gathers.
        """
        return {}

    def take_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned; every process is given the same."""

    def describe(self) -> str:
        """Say in a few words what is the method's own in the recipe: `512 prototypes in blocks of 32`."""
        return ""

    def notes(self) -> list[str]:
        """Say what a person should know before the training starts, a line each."""
        return []

    def told(self, values: Mapping[str, float]) -> str:
        """Say a step's losses in a few words, from the numbers it showed."""
        others = [f"{name} {value:.3f}" for name, value in values.items() if name not in ("loss", "lr")]
        return ", ".join([f"loss {values['loss']:.3f}", *others])

    def signs(self, network: Network, embeddings: Float[Tensor, "image dim"]) -> dict[str, float]:
        """Return signs of collapse that are the method's own, by name.

        Args:
            network: The teacher or, in a method without, the student.
            embeddings: What its head makes of some images.
        """
        del network, embeddings
        return {}

    def warnings(self, seen: Mapping[str, float]) -> dict[str, str]:
        """Say in words what looks wrong and what to change, by the number that shows it.

        Args:
            seen: The last step's numbers, and the signs found since; any may be missing.
        """
        return few_directions(
            seen, advice="Lower optimiser.lr, or look at what keeps the method from collapse"
        )

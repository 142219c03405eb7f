"""The CARP method: its networks, and its loss of a step (CARP, sections 3 and 4)."""

from collections.abc import Sequence
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor, nn

from carp_eval import optim
from carp_eval.cards.recipe import RecipeCard
from carp_eval.models import network
from carp_eval.pretrain import partition, teacher
from carp_eval.pretrain.carp_loss import CarpLoss, carp_loss
from carp_eval.seeds import generator


class Carp:
    """Student, teacher and the loss between them.

    Attributes:
        student: The network that gradients move.
        teacher: The network that follows it; None in the siamese ablation.
    """

    def __init__(self, recipe: RecipeCard, *, device: torch.device) -> None:
        self.recipe = recipe
        self.student = network.build(recipe, seed=recipe.seed).to(device)
        self.teacher = teacher.copy_of(self.student) if recipe.teacher.kind == "ema" else None
        self._to_teacher = [view.to_teacher for view in recipe.views for _ in range(view.count)]

    def loss(
        self,
        views: Sequence[Float[Tensor, "image channel height width"]],
        *,
        student: nn.Module,
        step: int,
        progress: float,
    ) -> CarpLoss:
        """Take the loss of one step.

        Args:
            views: The views of a batch, those that go to the teacher first.
            student: The student, or what wraps it for several processes.
            step: The step's number, which the random partition depends on.
            progress: Share of the training that is done, in [0, 1].
        """
        embedded = embed(student, views)
        with torch.no_grad():
            seen = [view for view, wanted in zip(views, self._to_teacher, strict=True) if wanted]
            targets = embedded[: len(seen)].detach() if self.teacher is None else embed(self.teacher, seen)
        prototypes = self.student.prototypes.weight
        own = self.teacher is not None and self.recipe.prototypes.teacher == "ema"
        weights = self.recipe.loss
        # The loss is float32 whatever the networks run in: a mean of 65,536 shares is lost in bfloat16.
        with torch.autocast(prototypes.device.type, enabled=False):
            return carp_loss(
                embedded,
                targets,
                prototypes,
                self._teacher_prototypes() if own else prototypes,
                self._partition(step).to(prototypes.device),
                entropy_weight=optim.interpolate(
                    weights.entropy_schedule,
                    weights.entropy_weight,
                    weights.final_entropy_weight,
                    progress=progress,
                ),
                convention=weights.convention,
                unit_norm=self.recipe.prototypes.unit_norm,
            )

    def momentum(self, progress: float) -> float:
        """Return eta of a step."""
        card = self.recipe.teacher
        return optim.interpolate(card.schedule, card.momentum, card.final_momentum, progress=progress)

    def follow(self, *, progress: float) -> None:
        """Let the teacher follow the student; to be called before the optimiser's step."""
        if self.teacher is not None:
            teacher.follow(self.teacher, self.student, momentum=self.momentum(progress))

    def _teacher_prototypes(self) -> Tensor:
        assert isinstance(self.teacher, network.Network)
        return self.teacher.prototypes.weight

    def _partition(self, step: int) -> Tensor:
        count, block_size = self.recipe.prototypes.count, self.recipe.partition.block_size
        if self.recipe.partition.kind == "constant":
            return partition.constant(count, block_size=block_size)
        return partition.draw(
            count, block_size=block_size, generator=generator(self.recipe.seed, "partition", step)
        )


def embed(
    module: nn.Module, views: Sequence[Float[Tensor, "image channel _ _"]]
) -> Float[Tensor, "view image dim"]:
    """Embed views, those of one size in one forward pass, so that they share BatchNorm's statistics."""
    embedded: list[Tensor] = []
    for _, same_size in groupby(views, key=lambda view: view.shape[-1]):
        together = list(same_size)
        embedded += module(torch.cat(together)).chunk(len(together))
    return torch.stack(embedded)

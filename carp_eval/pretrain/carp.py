"""The CARP method: its networks, and its loss of a step (CARP, sections 3 and 4)."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from carp_eval import optim
from carp_eval.cards.carp import CarpRecipe
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.models import network
from carp_eval.models.network import Network, PrototypeNetwork
from carp_eval.pretrain import partition, signs, teacher
from carp_eval.pretrain.carp_loss import carp_loss
from carp_eval.pretrain.method import Losses, Method, Step
from carp_eval.seeds import generator


class Carp(Method[CarpRecipe]):
    """Student, teacher and the loss between them; there is no teacher in the siamese ablation."""

    sign_names: ClassVar[Mapping[str, str]] = {"prototypes_used": "prototypes used"}

    def __init__(self, recipe: CarpRecipe, *, device: torch.device) -> None:
        self.recipe = recipe
        self.student = network.build(recipe, seed=recipe.seed).to(device)
        self.teacher = teacher.copy_of(self.student) if recipe.teacher.kind == "ema" else None
        self._to_teacher = [view.to_teacher for view in recipe.views for _ in range(view.count)]

    def loss(self, batch: TrainingBatch, *, student: nn.Module, step: Step) -> Losses:
        """Take the loss of one step; the views that go to the teacher come first."""
        embedded = embed(student, batch.views)
        with torch.no_grad():
            seen = [view for view, wanted in zip(batch.views, self._to_teacher, strict=True) if wanted]
            targets = embedded[: len(seen)].detach() if self.teacher is None else embed(self.teacher, seen)
        prototypes = _prototypes(self.student)
        own = self.recipe.prototypes.teacher == "ema"
        weights = self.recipe.loss
        # The loss is float32 whatever the networks run in: a mean of 65,536 shares is lost in bfloat16.
        with torch.autocast(prototypes.device.type, enabled=False):
            loss = carp_loss(
                embedded,
                targets,
                prototypes,
                _prototypes(self.teacher) if own and self.teacher is not None else prototypes,
                self._partition(step.number).to(prototypes.device),
                entropy_weight=optim.interpolate(
                    weights.entropy_schedule,
                    weights.entropy_weight,
                    weights.final_entropy_weight,
                    progress=step.progress,
                ),
                convention=weights.convention,
                unit_norm=self.recipe.prototypes.unit_norm,
            )
        shown = {
            "consistency": loss.consistency,
            "kl": loss.kl,
            "teacher_momentum": self.momentum(step.progress),
        }
        return Losses(loss.total, shown)

    def momentum(self, progress: float) -> float:
        """Return eta of a step."""
        card = self.recipe.teacher
        return optim.interpolate(card.schedule, card.momentum, card.final_momentum, progress=progress)

    def before_update(self, step: Step) -> None:
        """Let the teacher follow the student, by the weights that the loss was taken with (section 3)."""
        if self.teacher is not None:
            teacher.follow(self.teacher, self.student, momentum=self.momentum(step.progress))

    def describe(self) -> str:
        """Say how many prototypes there are."""
        return f"{self.recipe.prototypes.count} prototypes in blocks of {self.recipe.partition.block_size}"

    def notes(self) -> list[str]:
        """Say how many prototypes no step's blocks have room for."""
        count, block_size = self.recipe.prototypes.count, self.recipe.partition.block_size
        if count % block_size == 0:
            return []
        return [
            f"{count % block_size} of {count} prototypes fall outside the blocks of each step: "
            f"{block_size} does not divide {count}"
        ]

    def told(self, values: Mapping[str, float]) -> str:
        """Say a step's loss and its parts in a few words."""
        return f"loss {values['loss']:.3f} = {values['consistency']:.3f} + entropy, KL {values['kl']:.3f}"

    def signs(self, network: Network, embeddings: Float[Tensor, "image dim"]) -> dict[str, float]:
        """Return the share of prototypes that are some image's nearest."""
        used = signs.prototypes_used(
            embeddings, _prototypes(network).cpu(), unit_norm=self.recipe.prototypes.unit_norm
        )
        return {"prototypes_used": used}

    def warnings(self, seen: Mapping[str, float]) -> dict[str, str]:
        """Say in words what looks wrong: views that gather, assignments that stay even, features that collapse."""
        return signs.warnings(self.recipe, signs=seen)

    def _partition(self, step: int) -> Tensor:
        count, block_size = self.recipe.prototypes.count, self.recipe.partition.block_size
        if self.recipe.partition.kind == "constant":
            return partition.constant(count, block_size=block_size)
        return partition.draw(
            count, block_size=block_size, generator=generator(self.recipe.seed, "partition", step)
        )


def _prototypes(network: Network) -> Tensor:
    assert isinstance(network, PrototypeNetwork)
    return network.prototypes.weight


def embed(
    module: nn.Module, views: Sequence[Float[Tensor, "image channel _ _"]]
) -> Float[Tensor, "view image dim"]:
    """Embed views, those of one size in one forward pass, so that they share BatchNorm's statistics."""
    embedded: list[Tensor] = []
    for _, same_size in groupby(views, key=lambda view: view.shape[-1]):
        together = list(same_size)
        embedded += module(torch.cat(together)).chunk(len(together))
    return torch.stack(embedded)

"""The CARL method (Silva and Ramírez Rivera, SAC 2022): all views of an image go to the same prototypes, both ways."""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from carp_eval.cards.carl import CarlRecipe
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.models import network
from carp_eval.models.network import Network, PrototypeNetwork
from carp_eval.pretrain import carl_loss, signs
from carp_eval.pretrain.carp import embed
from carp_eval.pretrain.method import Losses, Method, Step


class Carl(Method[CarlRecipe]):
    """One network, whose views all carry gradients; there is no teacher (section 3.2)."""

    sign_names: ClassVar[Mapping[str, str]] = {"prototypes_used": "prototypes used"}

    def __init__(self, recipe: CarlRecipe, *, device: torch.device) -> None:
        self.recipe = recipe
        self.student = network.build(recipe, seed=recipe.seed).to(device)

    def loss(self, batch: TrainingBatch, *, student: nn.Module, step: Step) -> Losses:
        """Take the loss of one step (equation 7)."""
        embedded = embed(student, batch.views)
        card = self.recipe.loss
        weight = carl_loss.kl_weight(
            float(step.epoch), start=card.kl_weight, end=card.final_kl_weight, epochs=card.decay_epochs
        )
        with torch.autocast(embedded.device.type, enabled=False):
            logits = embedded.float() @ self._prototypes(self.student).T
            loss = carl_loss.carl_loss(logits, kl_weight=weight)
        return Losses(
            loss.total, {"consistency": loss.consistency, "kl": loss.kl, "kl_weight": float(weight)}
        )

    def describe(self) -> str:
        """Say how many prototypes there are."""
        return f"{self.recipe.prototypes.count} prototypes"

    def told(self, values: Mapping[str, float]) -> str:
        """Say a step's loss and its parts in a few words."""
        parts = f"{values['consistency']:.3f} + {values['kl_weight']:.2f} x KL {values['kl']:.3f}"
        return f"loss {values['loss']:.3f} = {parts}"

    def signs(self, network: Network, embeddings: Float[Tensor, "image dim"]) -> dict[str, float]:
        """Return the share of prototypes that are some image's nearest."""
        used = signs.prototypes_used(embeddings, self._prototypes(network).cpu(), unit_norm=False)
        return {"prototypes_used": used}

    def warnings(self, seen: Mapping[str, float]) -> dict[str, str]:
        """Say in words what looks wrong: views that gather, assignments that stay even, features that collapse."""
        most = math.log(self.recipe.prototypes.count)
        said: dict[str, str] = {}
        if seen.get("kl", 0.0) > most / 2:
            said["kl"] = (
                f"Views gather on few prototypes: KL {seen['kl']:.2f}, where 0 is even use and {most:.2f} is collapse. "
                "Raise loss.kl_weight and loss.final_kl_weight, lower prototypes.count, or take a larger batch."
            )
        if seen.get("consistency", 0.0) > 0.98 * most:
            said["consistency"] = (
                f"Assignments are still even: the consistency {seen['consistency']:.2f} has not left its start, "
                f"{most:.2f}. Raise optimiser.lr, or lower loss.kl_weight."
            )
        if seen.get("prototypes_used", 1.0) < 0.05:
            said["prototypes_used"] = (
                f"Only {seen['prototypes_used']:.1%} of the prototypes are any image's nearest. Raise "
                "loss.final_kl_weight, or lower prototypes.count."
            )
        return said | signs.few_directions(seen, advice="Raise loss.kl_weight, or lower optimiser.lr")

    def _prototypes(self, network: Network) -> Tensor:
        assert isinstance(network, PrototypeNetwork)
        weight = network.prototypes.weight.float()
        return functional.normalize(weight) if self.recipe.prototypes.unit_norm else weight

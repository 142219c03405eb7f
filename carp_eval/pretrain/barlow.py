"""The Barlow Twins method (Zbontar et al., ICML 2021): views agree in each dimension, and no two dimensions do."""

from collections.abc import Mapping

import torch
from torch import nn

from carp_eval.cards.barlow import BarlowRecipe
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.models import network
from carp_eval.pretrain.barlow_loss import barlow_loss
from carp_eval.pretrain.method import Losses, Method, Step
from carp_eval.pretrain.signs import few_directions


class BarlowTwins(Method[BarlowRecipe]):
    """One network; there is neither teacher nor predictor nor negatives.

    Each view goes through the network by itself, so that BatchNorm's statistics are one view's, as in the authors'
    code.
    """

    def __init__(self, recipe: BarlowRecipe, *, device: torch.device) -> None:
        self.recipe = recipe
        self.student = network.build(recipe, seed=recipe.seed).to(device)

    def loss(self, batch: TrainingBatch, *, student: nn.Module, step: Step) -> Losses:
        """Take the loss of one step."""
        del step
        embedded = torch.stack([student(view) for view in batch.views])
        with torch.autocast(embedded.device.type, enabled=False):
            loss = barlow_loss(embedded, redundancy_weight=self.recipe.loss.redundancy_weight)
        dim = embedded.shape[-1]
        # Of one dimension, and of one pair of them, so that the numbers mean the same at any width.
        shown = {
            "disagreement": loss.invariance / dim,
            "redundancy": loss.redundancy / max(1, dim * (dim - 1)),
        }
        return Losses(loss.total, shown)

    def set_rates(self, optimiser: torch.optim.Optimizer, rate: float, step: Step) -> None:
        """Set the learning rate; biases and norms have their own, which falls as that of weights does."""
        del step
        card = self.recipe.optimiser
        share = 1.0 if card.bias_lr is None else card.bias_lr / card.lr
        for group in optimiser.param_groups:
            vectors = all(parameter.ndim <= 1 for parameter in group["params"])
            group["lr"] = rate * share if vectors else rate

    def describe(self) -> str:
        """Say how wide what is compared is."""
        return f"the correlations of {self.recipe.head.output_dim} dimensions"

    def warnings(self, seen: Mapping[str, float]) -> dict[str, str]:
        """Say in words what looks wrong: dimensions that tell the same, features that collapse."""
        said: dict[str, str] = {}
        if seen.get("redundancy", 0.0) > 0.5:
            said["redundancy"] = (
                f"Dimensions tell the same: their squared correlations are {seen['redundancy']:.2f} in the mean, where "
                "0 is none and 1 is collapse. Raise loss.redundancy_weight, or lower optimiser.lr."
            )
        advice = "Raise loss.redundancy_weight, or lower optimiser.lr"
        return said | few_directions(seen, advice=advice)

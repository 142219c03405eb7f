"""The SimCLR method (Chen et al., ICML 2020), with any number of views (SwAV's supplement, A.8)."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from carp_eval.cards.simclr import SimclrRecipe
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.models import network
from carp_eval.pretrain import spread
from carp_eval.pretrain.carp import embed
from carp_eval.pretrain.contrastive_loss import nt_xent
from carp_eval.pretrain.method import Losses, Method, Step


class Simclr(Method[SimclrRecipe]):
    """One network; an image's views are told from those of all other images of the batch, of all processes."""

    def __init__(self, recipe: SimclrRecipe, *, device: torch.device) -> None:
        self.recipe = recipe
        self.student = network.build(recipe, seed=recipe.seed).to(device)

    def loss(self, batch: TrainingBatch, *, student: nn.Module, step: Step) -> Losses:
        """Take the loss of one step."""
        del step
        embedded = embed(student, batch.views)
        with torch.autocast(embedded.device.type, enabled=False):
            loss = nt_xent(embedded, temperature=self.recipe.loss.temperature)
            return Losses(loss, {"spread": spread.spread(embedded)})

    def describe(self) -> str:
        """Say what an image is told from."""
        others = self.recipe.schedule.batch_size - 1
        return f"each view against those of {others} other images"

    def warnings(self, seen: Mapping[str, float]) -> dict[str, str]:
        """Say in words what looks wrong: views that are not told apart, embeddings that collapse."""
        num_views = sum(view.count for view in self.recipe.views)
        # The loss where all embeddings are one: a positive among as many that look the same.
        most = math.log(1 + num_views * (self.recipe.schedule.batch_size - 1))
        said: dict[str, str] = {}
        if seen.get("loss", 0.0) > 0.98 * most:
            said["loss"] = (
                f"Views are not told from those of other images: the loss {seen['loss']:.2f} is that of one embedding "
                f"for all, {most:.2f}. Change optimiser.lr, or lower loss.temperature."
            )
        advice = "Lower optimiser.lr or loss.temperature, or take a larger batch"
        return said | spread.warnings(seen, advice=advice)

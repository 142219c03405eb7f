"""The SimSiam method (Chen and He, CVPR 2021): predict one view's projection from another's, without a teacher."""

from collections.abc import Mapping

import torch
from torch import nn

from carp_eval import optim
from carp_eval.cards.simsiam import SimsiamRecipe
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.pretrain import predictor, spread
from carp_eval.pretrain.cosine_loss import simsiam_loss
from carp_eval.pretrain.method import Losses, Method, Step

_CONSTANT = "constant_lr"


class Simsiam(Method[SimsiamRecipe]):
    """A network with a predictor, and a stop-gradient.

    Each view goes through the network by itself, so that BatchNorm's statistics are one view's, as in the authors'
    code.
    """

    def __init__(self, recipe: SimsiamRecipe, *, device: torch.device) -> None:
        self.recipe = recipe
        self._network = predictor.build(recipe, recipe.predictor, seed=recipe.seed).to(device)
        self.student = self._network

    def loss(self, batch: TrainingBatch, *, student: nn.Module, step: Step) -> Losses:
        """Take the loss of one step (equation 4)."""
        del step
        seen = [student(view) for view in batch.views]
        projected, predicted = (torch.stack(part) for part in zip(*seen, strict=True))
        num_views = len(batch.views)
        pairs = [(a, b) for a in range(num_views) for b in range(num_views) if a != b]
        first, second = torch.tensor(pairs, device=projected.device).T
        with torch.autocast(projected.device.type, enabled=False):
            return Losses(
                simsiam_loss(predicted[first], projected[second]), {"spread": spread.spread(projected[0])}
            )

    def optimiser(self) -> torch.optim.Optimizer:
        """Return the recipe's optimiser, with the predictor's parameters in groups of their own."""
        below = nn.ModuleList([self._network.trunk, self._network.head])
        whole = optim.build(self.recipe.optimiser, below)
        for group in optim.build(self.recipe.optimiser, self._network.predictor).param_groups:
            whole.add_param_group(group | {_CONSTANT: self.recipe.predictor.constant_lr})
        return whole

    def set_rates(self, optimiser: torch.optim.Optimizer, rate: float, step: Step) -> None:
        """Set the learning rate; the predictor's stays, where the recipe says so."""
        del step
        for group in optimiser.param_groups:
            group["lr"] = self.recipe.optimiser.lr if group.get(_CONSTANT) else rate

    def warnings(self, seen: Mapping[str, float]) -> dict[str, str]:
        """Say in words that embeddings or features have collapsed."""
        advice = "Give the head BatchNorm, its output too (head.output_norm), or lower optimiser.lr"
        return spread.warnings(seen, advice=advice)

"""The method `predict`: each view predicts the other's projection, which takes no gradient (as in SimSiam)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from carp_eval.data.training_batches import TrainingBatch
from carp_eval.models.network import Network
from carp_eval.pretrain.method import Losses, Method, Step
from carp_eval_example.plugins import PredictRecipe


class Student(Network):
    """Trunk and projection head, with a predictor behind them."""

    def __init__(self, recipe: PredictRecipe) -> None:
        super().__init__(recipe)
        width, hidden = recipe.head.output_dim, recipe.predictor.hidden_dim
        self.predictor = nn.Sequential(
            nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, width)
        )

    def forward(self, images: Float[Tensor, "image channel height width"]) -> tuple[Tensor, Tensor]:
        """Return projections, and what the predictor makes of them."""
        projected = super().forward(images)
        return projected, self.predictor(projected)


class Predict(Method[PredictRecipe]):
    """A student that predicts one view of an image from the other."""

    def __init__(self, recipe: PredictRecipe, *, device: torch.device) -> None:
        self.recipe = recipe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.student = Student(recipe).to(device)

    def loss(self, batch: TrainingBatch, *, student: nn.Module, step: Step) -> Losses:
        """Take minus the mean cosine between what is predicted and what is there."""
        del step
        projected, predicted = student(torch.cat(batch.views[:2]))
        first, second = projected.detach().chunk(2)
        similarity = cosine_similarity(predicted, torch.cat([second, first]), dim=1).mean()
        return Losses(-similarity, {"spread": projected.detach().std(dim=0).mean()})

    def optimiser(self) -> torch.optim.Optimizer:
        """Return SGD with the predictor in a group of its own, which `set_rates` leaves alone."""
        own = list(self.student.predictor.parameters())
        others = [*self.student.trunk.parameters(), *self.student.head.parameters()]
        groups = [{"params": others}, {"params": own, "lr": self.recipe.predictor.lr}]
        card = self.recipe.optimiser
        return torch.optim.SGD(groups, lr=card.lr, momentum=card.momentum, weight_decay=card.weight_decay)

    def set_rates(self, optimiser: torch.optim.Optimizer, rate: float, step: Step) -> None:
        """Set the rate of all but the predictor."""
        del step
        optimiser.param_groups[0]["lr"] = rate

    def describe(self) -> str:
        """Say how wide the predictor is."""
        return f"a predictor of {self.recipe.predictor.hidden_dim}"

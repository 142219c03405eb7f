"""A network with a predictor, which guesses one view's embedding from another's (BYOL, section 3.1; SimSiam, 3)."""

import torch
from jaxtyping import Float
from torch import Tensor

from carp_eval.cards.recipe import HeadCard, RecipeCard
from carp_eval.models import head
from carp_eval.models.network import Network


class PredictingNetwork(Network):
    """Trunk, projection head, and a predictor above, which is trained with them and judged nowhere."""

    def __init__(self, recipe: RecipeCard, card: HeadCard) -> None:
        super().__init__(recipe)
        self.predictor = head.build(card, input_dim=recipe.head.output_dim)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, images: Float[Tensor, "image channel height width"]
    ) -> tuple[Float[Tensor, "image dim"], Float[Tensor, "image dim"]]:
        """Return each image's projection, and the prediction that is made from it."""
        projected = super().forward(images)
        return projected, self.predictor(projected)


def build(recipe: RecipeCard, card: HeadCard, *, seed: int) -> PredictingNetwork:
    """Build a network with fresh weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PredictingNetwork(recipe, card)


def judged_part(recipe: RecipeCard, student: PredictingNetwork) -> Network:
    """Return a network without a predictor whose trunk and head are as the student's are now."""
    with torch.random.fork_rng(devices=[]):
        without = Network(recipe)
    without.trunk.load_state_dict(student.trunk.state_dict())
    without.head.load_state_dict(student.head.state_dict())
    return without

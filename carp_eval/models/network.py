"""A whole network of a recipe: trunk, projection head and prototypes."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from carp_eval.cards.recipe import RecipeCard
from carp_eval.models import head, trunks


class Network(nn.Module):
    """Trunk, head and prototypes, as the student and the teacher each have them (CARP, section 3)."""

    def __init__(self, recipe: RecipeCard) -> None:
        super().__init__()
        self.trunk = trunks.build(recipe.trunk)
        self.head = head.build(recipe.head, input_dim=trunks.feature_dim(self.trunk))
        self.prototypes = head.Prototypes(recipe.prototypes.count, dim=recipe.head.output_dim)

    def forward(self, images: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image dim"]:
        """Embed images: z of section 3, not scaled to unit length."""
        return self.head(self.trunk(images))


def build(recipe: RecipeCard, *, seed: int) -> Network:
    """Build a network with fresh weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(recipe)

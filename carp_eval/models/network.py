"""A whole network of a recipe: trunk and projection head, and prototypes where its method has them."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from carp_eval.cards.recipe import PrototypeRecipe, RecipeCard
from carp_eval.models import head, trunks


class Network(nn.Module):
    """Trunk and projection head: what every method trains, and what is judged.

    A method may add parts below it, such as a predictor; it must not replace these two, by whose entries `trunk.*` and
    `head.*` a checkpoint is opened.
    """

    def __init__(self, recipe: RecipeCard) -> None:
        super().__init__()
        self.trunk = trunks.build(recipe.trunk)
        self.head = head.build(recipe.head, input_dim=trunks.feature_dim(self.trunk))

    def forward(self, images: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image dim"]:
        """Embed images: z of CARP's section 3, not scaled to unit length."""
        return self.head(self.trunk(images))


class PrototypeNetwork(Network):
    """Trunk, head and prototypes, as CARP's student and teacher each have them (section 3); sets one below another."""

    def __init__(self, recipe: PrototypeRecipe) -> None:
        super().__init__(recipe)
        card = recipe.prototypes
        self.prototypes = head.Prototypes(card.sets * card.count, dim=recipe.head.output_dim)


def build(recipe: RecipeCard, *, seed: int) -> Network:
    """Build a network with fresh weights that depend on the seed alone.

    Of another package's method, only what is judged is built: trunk and head.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PrototypeNetwork(recipe) if isinstance(recipe, PrototypeRecipe) else Network(recipe)


def entries(recipe: RecipeCard, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return those entries of a trained network's state that `build` has room for."""
    if isinstance(recipe, PrototypeRecipe):
        return dict(state)
    return {name: tensor for name, tensor in state.items() if name.startswith(("trunk.", "head."))}

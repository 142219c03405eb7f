"""The recipe of the SimCLR method: its loss."""

from typing import Literal

from pydantic import PositiveFloat

from carp_eval.cards.frozen import Frozen
from carp_eval.cards.recipe import RecipeCard


class SimclrLossCard(Frozen):
    """NT-Xent.

    Attributes:
        temperature: tau.
    """

    temperature: PositiveFloat


class SimclrRecipe(RecipeCard):
    """A training of SimCLR; every view is an anchor, and all others of its image are positives."""

    method: Literal["simclr"]  # pyright: ignore[reportIncompatibleVariableOverride]
    loss: SimclrLossCard

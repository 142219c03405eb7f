"""The recipe of the Barlow Twins method: its loss, and the rate of biases."""

from typing import Literal

from pydantic import PositiveFloat

from carp_eval.cards.frozen import Frozen
from carp_eval.cards.recipe import NonNegative, OptimiserCard, RecipeCard


class BarlowLossCard(Frozen):
    """The Barlow Twins loss (equation 1).

    Attributes:
        redundancy_weight: lambda, of what lies beside the diagonal.
    """

    redundancy_weight: NonNegative = 0.0051


class BarlowOptimiserCard(OptimiserCard):
    """How the weights move.

    Attributes:
        bias_lr: Learning rate of biases and norms, where it is not that of weights; it falls as that does.
    """

    bias_lr: PositiveFloat | None = None


class BarlowRecipe(RecipeCard):
    """A training of Barlow Twins."""

    method: Literal["barlow-twins"]  # pyright: ignore[reportIncompatibleVariableOverride]
    loss: BarlowLossCard = BarlowLossCard()
    optimiser: BarlowOptimiserCard  # pyright: ignore[reportIncompatibleVariableOverride]

"""The recipe of the CARL method: its prototypes, and its loss."""

from typing import Literal

from pydantic import PositiveFloat

from carp_eval.cards.frozen import Frozen
from carp_eval.cards.recipe import NonNegative, PrototypeRecipe, PrototypesCard


class CarlPrototypesCard(PrototypesCard):
    """The prototypes: the rows of a linear layer, so of any length, and one set of them.

    Attributes:
        unit_norm: Whether each has length one; CARL's have not.
    """

    unit_norm: bool = False
    sets: Literal[1] = 1  # pyright: ignore[reportIncompatibleVariableOverride]


class CarlLossCard(Frozen):
    """The CARL loss (equations 7 and 8).

    Attributes:
        kl_weight: lambda_e at the start: b of equation 8.
        final_kl_weight: lambda_e after the decay: a.
        decay_epochs: Epochs over which the weight goes from one to the other, in a line: E.
    """

    kl_weight: NonNegative
    final_kl_weight: NonNegative
    decay_epochs: PositiveFloat


class CarlRecipe(PrototypeRecipe):
    """A training of CARL: two branches that share all weights, both with gradient, and no teacher."""

    method: Literal["carl"]  # pyright: ignore[reportIncompatibleVariableOverride]
    prototypes: CarlPrototypesCard  # pyright: ignore[reportIncompatibleVariableOverride]
    loss: CarlLossCard

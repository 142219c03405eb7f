"""The recipe of the SimSiam method: its predictor."""

from typing import Literal

from pydantic import model_validator

from carp_eval.cards.predictor import check_predictor_fits
from carp_eval.cards.recipe import HeadCard, RecipeCard


class SimsiamPredictorCard(HeadCard):
    """The predictor.

    Attributes:
        constant_lr: Whether its learning rate stays at `optimiser.lr`, which does better than to let it fall (SimSiam,
            section 4.2, Table 1).
    """

    constant_lr: bool = True


class SimsiamRecipe(RecipeCard):
    """A training of SimSiam.

    Attributes:
        predictor: Layers between an embedding and what is compared with that of another view.
    """

    method: Literal["simsiam"]  # pyright: ignore[reportIncompatibleVariableOverride]
    predictor: SimsiamPredictorCard

    @model_validator(mode="after")
    def _fits(self) -> "SimsiamRecipe":
        check_predictor_fits(self, self.predictor)
        return self

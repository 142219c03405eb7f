"""The recipe of the BYOL method: its predictor and its teacher."""

from typing import ClassVar, Literal

from pydantic import model_validator

from carp_eval.cards.predictor import EmaCard, check_predictor_fits
from carp_eval.cards.recipe import HeadCard, RecipeCard, check_teacher_sees


class ByolRecipe(RecipeCard):
    """A training of BYOL.

    Attributes:
        predictor: Layers between the student's embedding and what is compared with the teacher's.
        teacher: The target network, which follows the student.
    """

    judged: ClassVar[Literal["teacher", "student"]] = "student"

    method: Literal["byol"]  # pyright: ignore[reportIncompatibleVariableOverride]
    predictor: HeadCard
    teacher: EmaCard

    @model_validator(mode="after")
    def _fits(self) -> "ByolRecipe":
        check_predictor_fits(self, self.predictor)
        check_teacher_sees(self.views)
        return self

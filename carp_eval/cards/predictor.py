"""What recipes of methods with a predictor, or with a teacher that they cannot do without, have in common."""

from typing import Literal

from carp_eval.cards.recipe import HeadCard, RecipeCard, TeacherCard


class EmaCard(TeacherCard):
    """The slow network of a method that is nothing without one.

    Attributes:
        kind: `ema` follows the student.
    """

    kind: Literal["ema"] = "ema"  # pyright: ignore[reportIncompatibleVariableOverride]


def check_predictor_fits(recipe: RecipeCard, predictor: HeadCard) -> None:
    """Make sure that predictions can be compared with projections.

    Raises:
        ValueError: If they are not as wide.
    """
    if predictor.output_dim != recipe.head.output_dim:
        raise ValueError(
            f"predictor.output_dim is {predictor.output_dim} and head.output_dim {recipe.head.output_dim}: a "
            "prediction is compared with a projection, so they must be equal"
        )

"""The card of few-shot classification by a linear head on a frozen trunk, trained on random crops."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from carp_eval.cards.pixel_training import PixelTrainingCard


class FewshotProbeCard(PixelTrainingCard):
    """A linear head on a frozen trunk, trained on a few images of each class, for several numbers of them.

    Attributes:
        mode: How it is classified.
        n: Numbers of images of each class, drawn with the seed, the larger holding the smaller; `full` takes all.
        learning_rate: At the start.
    """

    kind: Literal["fewshot"]  # pyright: ignore[reportIncompatibleVariableOverride]
    mode: Literal["probe"]
    n: Annotated[tuple[PositiveInt | Literal["full"], ...], Field(min_length=1)]
    learning_rate: PositiveFloat

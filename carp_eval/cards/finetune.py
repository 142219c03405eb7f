"""Cards of fine-tuning trunk and head, on part of the labels or on all."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from carp_eval.cards.frozen import Frozen
from carp_eval.cards.pixel_training import PixelTrainingCard

Fraction = Annotated[float, Field(gt=0, le=1)]


class RatesCard(Frozen):
    """Learning rates, and which amounts of labels they are for.

    Attributes:
        trunk: Of the trunk.
        head: Of the classification layer.
        fractions: Shares of the labelled images; with `images_per_class` empty too, any amount.
        images_per_class: Numbers of images in each class.
    """

    trunk: PositiveFloat
    head: PositiveFloat
    fractions: tuple[Fraction, ...] = ()
    images_per_class: tuple[PositiveInt, ...] = ()


class FinetuneCard(PixelTrainingCard):
    """Trunk and head trained together, each with a rate of its own.

    Attributes:
        fraction: Share of each class's images to train on. One per cent and ten per cent of ImageNet are SimCLR's
            lists; other shares and data sets are drawn.
        images_per_class: How many images of each class to draw instead.
        image_list: A file that names, a line each, the images to train on instead.
        rates: Learning rates, by the amount of labels.
    """

    kind: Literal["semisup", "finetune"]  # pyright: ignore[reportIncompatibleVariableOverride]
    fraction: Fraction | None = None
    images_per_class: PositiveInt | None = None
    image_list: str | None = None
    rates: Annotated[tuple[RatesCard, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _says_how_much(self) -> "FinetuneCard":
        if (self.fraction is None) == (self.images_per_class is None):
            raise ValueError("one of fraction and images_per_class must be given, and not both")
        return self

    def rates_of_amount(self) -> RatesCard | None:
        """Return the rates for the card's amount of labels; None if it has none for it."""
        for rates in self.rates:
            anything = not rates.fractions and not rates.images_per_class
            if (
                anything
                or self.fraction in rates.fractions
                or self.images_per_class in rates.images_per_class
            ):
                return rates
        return None

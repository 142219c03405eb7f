"""Cards of linear probes: on the bank, a grid trained at once or logistic regression over C; or on random crops."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from carp_eval.cards.pixel_training import PixelTrainingCard
from carp_eval.cards.protocol import ProtocolCard

Share = Annotated[float, Field(gt=0, lt=1)]


class LinearCard(ProtocolCard):
    """What linear probes on the bank share.

    Attributes:
        mode: How the probe is trained.
        scaling: What is done to features first: `plain` is nothing, `unit` brings each row to length 1, `standardised`
            each feature to mean 0 and deviation 1 on the bank.
        held_out: Share of each class of the bank on which settings are chosen; never the scored images.
        refit: Whether the chosen settings are trained again on the whole bank, before the probe is scored.
    """

    kind: Literal["linear"]  # pyright: ignore[reportIncompatibleVariableOverride]
    mode: str
    scaling: Literal["plain", "unit", "standardised"]
    held_out: Share
    refit: bool = True


class CachedLinearCard(LinearCard):
    """Many learning rates and weight decays, trained at once by SGD with a cosine schedule, from zero.

    Attributes:
        learning_rates: Of the first step; each is paired with each weight decay.
        weight_decays: Added to the gradient, times the weight; biases too.
        momentum: Of the velocity.
        epochs: Passes over the features.
        batch_size: Rows in a step; what an epoch has left over waits for the next shuffle.
    """

    mode: Literal["cached"]  # pyright: ignore[reportIncompatibleVariableOverride]
    learning_rates: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
    weight_decays: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    epochs: PositiveInt
    batch_size: PositiveInt


class LogregCard(LinearCard):
    """Logistic regression by L-BFGS, over a range of C.

    Attributes:
        lowest_power: The least C, as a power of ten.
        highest_power: The largest.
        number: How many, at equal distances of their powers.
        max_iter: Iterations of one fit, at most.
        tolerance: A fit ends where no slope of the mean loss is above this.
        dtype: In which numbers it is fitted.
    """

    mode: Literal["logreg"]  # pyright: ignore[reportIncompatibleVariableOverride]
    lowest_power: float
    highest_power: float
    number: PositiveInt
    max_iter: PositiveInt
    tolerance: PositiveFloat
    dtype: Literal["float32", "float64"]


class AugmentedLinearCard(PixelTrainingCard):
    """A linear head on a frozen trunk, trained on random crops.

    Attributes:
        mode: How the probe is trained.
        learning_rate: At the start.
        reported: Which epoch's head is scored: the last, or the best on the scored images themselves, as many sources
            report it; the second flatters, and the variant's name must say `best-epoch`.
    """

    kind: Literal["linear"]  # pyright: ignore[reportIncompatibleVariableOverride]
    mode: Literal["augmented"]
    learning_rate: PositiveFloat
    reported: Literal["last", "best"] = "last"

    @model_validator(mode="after")
    def _name_tells_the_best_epoch(self) -> "AugmentedLinearCard":
        if (self.reported == "best") != ("best-epoch" in self.variant):
            raise ValueError(
                'reported = "best" goes with a variant whose name says best-epoch, and only with one'
            )
        return self


MODES: dict[str, type[ProtocolCard]] = {
    "augmented": AugmentedLinearCard,
    "cached": CachedLinearCard,
    "logreg": LogregCard,
}


def card_type(content: dict[str, Any]) -> type[ProtocolCard]:
    """Return the class that reads a linear card of this content's mode; without a known one, one that refuses it."""
    return MODES.get(content.get("mode", ""), CachedLinearCard)

"""Cards of few-shot classification: what is trained on a few images, by its mode."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from carp_eval.cards.fewshot_probe import FewshotProbeCard
from carp_eval.cards.protocol import ProtocolCard
from carp_eval.cards.voc07 import SvmCard


class SvmFewshotCard(SvmCard):
    """Machines that learn from a few images of each class.

    Attributes:
        n: Images of each class; each number is drawn for anew.
        draws: How often images are drawn.
        negatives: Images without the class drawn for each that has it, for each class by itself. Left out, all classes
            learn from the images drawn for any; one drawn for two classes stands there twice.
        chosen_on: Where one C of several is chosen, by its mAP over all draws: on the images of the training split that
            were not drawn, or on those that are scored, which flatters, and which the variant's name must tell by
            `best-on-test`.
    """

    kind: Literal["fewshot"]  # pyright: ignore[reportIncompatibleVariableOverride]
    mode: Literal["svm"]
    n: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    draws: PositiveInt
    negatives: PositiveInt | None = None
    chosen_on: Literal["rest", "test"] = "rest"

    @model_validator(mode="after")
    def _name_tells_the_best_on_test(self) -> "SvmFewshotCard":
        if (self.chosen_on == "test") != ("best-on-test" in self.variant):
            raise ValueError(
                'chosen_on = "test" goes with a variant whose name says best-on-test, and only with one'
            )
        return self


MODES: dict[str, type[ProtocolCard]] = {"probe": FewshotProbeCard, "svm": SvmFewshotCard}


def card_type(content: dict[str, Any]) -> type[ProtocolCard]:
    """Return the class that reads a few-shot card of this mode; without a known one, one that refuses it."""
    return MODES.get(content.get("mode", ""), SvmFewshotCard)

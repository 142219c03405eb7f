"""Cards of copy detection: on INRIA Copydays, or on copies made of any data set's images."""

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from carp_eval.cards.protocol import ProtocolCard

Blocks = tuple[str, ...]


class CopyDetectionCard(ProtocolCard):
    """What both modes share: originals and distractors ranked by cosine similarity to each copy.

    Attributes:
        mode: Where the copies come from.
        descriptor: `pool` is the model's own average pool; `pool+gem` has the generalised mean of the same map beside
            it, as DINO has it beside a ViT's [CLS].
        gem_power: Exponent of that mean.
        places: How far down a ranking counts: an original further down is one that was not found. Left out, all.
        distractors: Data set of images that are ranked among the originals; left out, what the mode has.
        distractor_split: The split of it, where it has several.
        num_distractors: How many are drawn; left out, all there are.
        whitening: Data set on which features are whitened; left out, they are not.
        whitening_split: The split of it, where it has several.
        num_whitening: How many of its images are drawn; left out, all there are.
    """

    kind: Literal["copydays"]  # pyright: ignore[reportIncompatibleVariableOverride]
    mode: str
    descriptor: Literal["pool", "pool+gem"]
    gem_power: PositiveFloat = 4.0
    places: PositiveInt | None = None
    distractors: str | None = None
    distractor_split: str = "train"
    num_distractors: NonNegativeInt | None = None
    whitening: str | None = None
    whitening_split: str = "train"
    num_whitening: PositiveInt | None = None
    bank_split: str = "original"
    query_split: str = "strong"

    @model_validator(mode="after")
    def _whitening_is_on_something(self) -> "CopyDetectionCard":
        if self.num_whitening and self.whitening is None:
            raise ValueError(
                f"{self.num_whitening} images of no data set to whiten on: name one (--whitening)"
            )
        return self


class CopydaysCard(CopyDetectionCard):
    """Copydays: every block of copies that is there. The originals are alone unless distractors are named."""

    mode: Literal["copydays"]  # pyright: ignore[reportIncompatibleVariableOverride]

    @model_validator(mode="after")
    def _distractors_are_of_something(self) -> "CopydaysCard":
        if self.num_distractors and self.distractors is None:
            raise ValueError(f"{self.num_distractors} distractors of no data set: name one (--distractors)")
        return self


class CopiesCard(CopyDetectionCard):
    """Copies made by seeded edits; the data set's other images are the distractors unless others are named.

    Attributes:
        split: Where the images are drawn from; a data set's only split, where it has one, and Copydays' originals.
        num_originals: How many are copied.
        num_backgrounds: How many others are kept for copies to be pasted on, and not ranked.
        blocks: The edits, each applied once to every original.
    """

    mode: Literal["copies"]  # pyright: ignore[reportIncompatibleVariableOverride]
    split: str = "test"
    num_originals: PositiveInt
    num_backgrounds: PositiveInt
    blocks: Blocks = Field(min_length=1)

    @model_validator(mode="after")
    def _queries_are_a_block(self) -> "CopiesCard":
        if self.query_split not in self.blocks or len(set(self.blocks)) < len(self.blocks):
            raise ValueError(
                f"blocks must each stand once, and {self.query_split!r}, the query_split, be one of them"
            )
        return self


MODES: dict[str, type[CopyDetectionCard]] = {"copydays": CopydaysCard, "copies": CopiesCard}


def card_type(content: dict[str, Any]) -> type[CopyDetectionCard]:
    """Return the class that reads a card of this content's mode; without a known one, one that refuses it."""
    return MODES.get(content.get("mode", ""), CopydaysCard)

"""What all protocol cards share: a named variant of an evaluation, with every hyper-parameter."""

from typing import Annotated, Literal

from pydantic import PositiveInt, StringConstraints

from carp_eval.cards.frozen import Card, Frozen


class PreprocessingCard(Frozen):
    """What the protocol owns of an image's preparation; value range, mean and deviation are the model's.

    Sizes are in pixels, for a model of native size 224.

    Attributes:
        resize: Length of one side, or of both.
        side: Which: the short one, the shape kept; the long one, shrunk if it is longer, the shape kept; or both,
            the image squashed to a square.
        crop: Side of the centre crop that follows; left out, all is kept.
        squash: Side of the square that what is left is then squashed to; left out, it is not.
        interpolation: How pixels are resampled.
    """

    resize: PositiveInt
    side: Literal["short", "long", "both"] = "short"
    crop: PositiveInt | None = None
    squash: PositiveInt | None = None
    interpolation: Literal["bilinear", "bicubic", "lanczos"]


class ProtocolCard(Card):
    """What all protocols share.

    Attributes:
        kind: Which protocol this is a variant of; the name of the module that runs it.
        variant: The name that tells it from protocols of the same kind; part of the names of its results.
        preprocessing: How images become the model's input.
        layer: Which output of the model is judged.
        bank_split: The labelled images that are learnt from; left out, those that the field uses for the data set.
        query_split: The images that are scored; likewise.
    """

    kind: str
    # A slash would lead its results out of their folder.
    variant: Annotated[str, StringConstraints(pattern=r"^[\w.+-]+$")]
    preprocessing: PreprocessingCard
    layer: Literal["pool", "projection"] = "pool"
    bank_split: str = "train"
    query_split: str = "test"

    def leaves_open(self, split: str) -> bool:
        """Tell whether the card leaves `bank_split` or `query_split` to the data set.

        Kinds of protocol that are for one data set have splits of their own, and do not.
        """
        own = type(self).model_fields[split].default != ProtocolCard.model_fields[split].default
        return not own and split not in self.model_fields_set

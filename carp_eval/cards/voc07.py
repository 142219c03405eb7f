"""The cards of linear support vector machines: what all share, and VOC07's classification on all its images."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from carp_eval.cards.protocol import ProtocolCard

Difficult = Literal["negative", "ignored"]


class SvmCard(ProtocolCard):
    """One linear support vector machine for each class, against all others, by LIBLINEAR.

    Squared hinge, l2 penalty, the dual problem. Features are divided by their length, to which 1e-5 is added.

    Attributes:
        places: Windows along each side of the trunk's last feature map whose means are the features, one after another;
            1 takes the model's features as they are.
        costs: LIBLINEAR's C; of several, one is chosen.
        positive_weight: What a positive's loss counts, where a negative's counts 1.
        tolerance: Where training stops.
        max_iter: Passes over the rows, at most.
        difficult_in_train: What becomes of images in which all that shows the class is marked as difficult.
        difficult_in_test: Likewise, where images are scored.
    """

    places: PositiveInt = 1
    costs: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
    positive_weight: PositiveFloat
    tolerance: PositiveFloat
    max_iter: PositiveInt
    difficult_in_train: Difficult
    difficult_in_test: Difficult
    bank_split: str = "trainval"

    @property
    def chooses(self) -> bool:
        """Whether there are several C to choose from."""
        return len(self.costs) > 1


class Voc07Card(SvmCard):
    """Classification by machines that learn from all images.

    Attributes:
        folds: Parts of the training images by which each class's C is chosen, of several: each part is scored by what
            learnt from the others.
    """

    kind: Literal["voc07"]  # pyright: ignore[reportIncompatibleVariableOverride]
    folds: Annotated[int, Field(ge=2)] = 3

"""The recipe of the CARP method: its prototypes, their partition, its loss and its teacher."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from carp_eval.cards.frozen import Frozen
from carp_eval.cards.recipe import (
    NonNegative,
    PrototypeRecipe,
    PrototypesCard,
    Shape,
    TeacherCard,
    check_teacher_sees,
)


class CarpPrototypesCard(PrototypesCard):
    """The prototypes, of which there is one set.

    Attributes:
        teacher: Whether the teacher keeps its own moving average of them or uses the student's.
    """

    sets: Literal[1] = 1  # pyright: ignore[reportIncompatibleVariableOverride]
    teacher: Literal["ema", "shared"] = "ema"


class PartitionCard(Frozen):
    """How the prototypes are split into blocks (CARP, section 4 and Table 7).

    Attributes:
        kind: `random` draws afresh every step; `constant` takes sequential blocks, once.
        block_size: Prototypes in a block, N_B.
    """

    kind: Literal["random", "constant"] = "random"
    block_size: Annotated[int, Field(ge=2)]


class LossCard(Frozen):
    """The CARP loss (equation 3).

    Attributes:
        convention: `sum` adds the two directions, as equation 3 prints it; `mean` averages over the
            ordered pairs, as the authors' code does: half the consistency, so an entropy weight w
            there is 2w here.
        entropy_weight: Weight of the entropy term at the start.
        final_entropy_weight: Weight at the end; left out, the same.
        entropy_schedule: How the weight goes from one to the other.
    """

    convention: Literal["sum", "mean"] = "sum"
    entropy_weight: NonNegative = 1.0
    final_entropy_weight: NonNegative | None = None
    entropy_schedule: Shape = "constant"


class CarpRecipe(PrototypeRecipe):
    """A training of CARP."""

    method: Literal["carp"]  # pyright: ignore[reportIncompatibleVariableOverride]
    prototypes: CarpPrototypesCard  # pyright: ignore[reportIncompatibleVariableOverride]
    partition: PartitionCard
    loss: LossCard = LossCard()
    teacher: TeacherCard

    @model_validator(mode="after")
    def _fits(self) -> "CarpRecipe":
        if self.partition.block_size > self.prototypes.count:
            raise ValueError(
                f"partition.block_size is {self.partition.block_size}, more than the "
                f"{self.prototypes.count} prototypes there are (prototypes.count)"
            )
        check_teacher_sees(self.views)
        marks = [view.to_teacher for view in self.views]
        if marks != sorted(marks, reverse=True):
            raise ValueError(
                "views that the teacher sees (views.to_teacher) come before those that it does not: change their order"
            )
        return self

"""The recipe of the MoCo v2 method: its queue, its loss and its teacher."""

from typing import ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt, model_validator

from carp_eval.cards.frozen import Frozen
from carp_eval.cards.predictor import EmaCard
from carp_eval.cards.recipe import RecipeCard, check_teacher_sees


class QueueCard(Frozen):
    """The negatives: keys of earlier steps.

    Attributes:
        length: How many.
    """

    length: PositiveInt


class MocoLossCard(Frozen):
    """InfoNCE.

    Attributes:
        temperature: tau.
    """

    temperature: PositiveFloat


class MocoTeacherCard(EmaCard):
    """The key encoder.

    Attributes:
        groups: Parts that the images of a step are shuffled into before it embeds them, each with its own BatchNorm
            statistics: the 8 GPUs of the paper. A process has its share of them, one at least.
    """

    groups: PositiveInt = 8


class MocoRecipe(RecipeCard):
    """A training of MoCo v2.

    The views with `to_teacher` are keys; a view is a query for each key of its image that is of another view.
    """

    judged: ClassVar[Literal["teacher", "student"]] = "student"

    method: Literal["moco-v2"]  # pyright: ignore[reportIncompatibleVariableOverride]
    queue: QueueCard
    loss: MocoLossCard
    teacher: MocoTeacherCard

    @model_validator(mode="after")
    def _fits(self) -> "MocoRecipe":
        check_teacher_sees(self.views)
        keys = self.schedule.batch_size * sum(view.count for view in self.views if view.to_teacher)
        if keys > self.queue.length:
            raise ValueError(
                f"queue.length is {self.queue.length}, and each step brings {keys} keys: it must have room for them"
            )
        if self.schedule.batch_size < 2 * self.teacher.groups:
            raise ValueError(
                f"schedule.batch_size is {self.schedule.batch_size} and teacher.groups {self.teacher.groups}: each "
                "group needs at least two images for statistics of its own"
            )
        return self

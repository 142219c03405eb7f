"""The recipes of SwAV, and of DeepCluster-v2 and SeLa-v2, its paper's offline relatives (supplement A and D)."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from carp_eval.cards.frozen import Frozen
from carp_eval.cards.recipe import PrototypeRecipe, PrototypesCard, check_teacher_sees


class UnitPrototypesCard(PrototypesCard):
    """Prototypes of unit length, scaled to it whenever they have moved (A.1)."""

    unit_norm: Literal[True] = True  # pyright: ignore[reportIncompatibleVariableOverride]


class LearnedPrototypesCard(UnitPrototypesCard):
    """Prototypes that gradients move.

    Attributes:
        frozen_epochs: How many epochs they stand still at first (A.1: one).
    """

    frozen_epochs: Annotated[int, Field(ge=0)] = 1


class SwavPrototypesCard(LearnedPrototypesCard):
    """SwAV's prototypes, of which there is one set.

    Attributes:
        learned: Whether gradients move them, or they stay where chance has put them (Table 9).
    """

    sets: Literal[1] = 1  # pyright: ignore[reportIncompatibleVariableOverride]
    learned: bool = True


class SinkhornCard(Frozen):
    """How images are assigned to prototypes evenly (A.1).

    Attributes:
        epsilon: The smaller, the sharper the assignment.
        iterations: How often prototypes and images are evened out, in turn (Table 10).
    """

    epsilon: PositiveFloat = 0.05
    iterations: PositiveInt = 3


class SwavAssignmentCard(SinkhornCard):
    """How a batch is assigned.

    Attributes:
        hard: Whether each image is given wholly to its largest share (Table 9).
    """

    hard: bool = False


class QueueCard(Frozen):
    """Embeddings of earlier batches, which are assigned along with a small one (A.6).

    Attributes:
        length: How many of each view, over all processes; 0 for none.
        start_epoch: The epoch, from 0, in which the queue begins to fill; it is used once it is full.
    """

    length: Annotated[int, Field(ge=0)] = 0
    start_epoch: Annotated[int, Field(ge=0)] = 15


class ClusteringCard(Frozen):
    """The spherical k-means of DeepCluster-v2 (equation 5).

    Attributes:
        iterations: At most so many; the supplement does not say, the authors' code takes 10.
    """

    iterations: PositiveInt = 10


class AssignmentRecipe(PrototypeRecipe):
    """A recipe of a method that predicts to which prototype an image was assigned.

    Assigned are the views marked `to_teacher`, the large ones of a multi-crop; all views predict.

    Attributes:
        temperature: tau of the prediction's softmax.
    """

    prototypes: UnitPrototypesCard  # pyright: ignore[reportIncompatibleVariableOverride]
    temperature: PositiveFloat = 0.1

    @property
    def num_assigned(self) -> int:
        """How many views of an image are assigned: the first ones."""
        return sum(view.count for view in self.views if view.to_teacher)

    @model_validator(mode="after")
    def _assigned_views_come_first(self) -> "AssignmentRecipe":
        check_teacher_sees(self.views)
        marks = [view.to_teacher for view in self.views]
        if marks != sorted(marks, reverse=True):
            raise ValueError(
                "views that are assigned (views.to_teacher) come before those that are not: change their order"
            )
        return self


class SwavRecipe(AssignmentRecipe):
    """A training of SwAV."""

    method: Literal["swav"]  # pyright: ignore[reportIncompatibleVariableOverride]
    prototypes: SwavPrototypesCard  # pyright: ignore[reportIncompatibleVariableOverride]
    assignment: SwavAssignmentCard = SwavAssignmentCard()
    queue: QueueCard = QueueCard()

    @model_validator(mode="after")
    def _queue_holds_whole_batches(self) -> "SwavRecipe":
        if self.queue.length % self.schedule.batch_size:
            raise ValueError(
                f"queue.length is {self.queue.length}, which is no multiple of schedule.batch_size, "
                f"{self.schedule.batch_size}: a queue holds whole batches"
            )
        return self


class DeepClusterRecipe(AssignmentRecipe):
    """A training of DeepCluster-v2, whose prototypes are the centres of k-means."""

    method: Literal["deepcluster-v2"]  # pyright: ignore[reportIncompatibleVariableOverride]
    clustering: ClusteringCard = ClusteringCard()


class SelaRecipe(AssignmentRecipe):
    """A training of SeLa-v2."""

    method: Literal["sela-v2"]  # pyright: ignore[reportIncompatibleVariableOverride]
    prototypes: LearnedPrototypesCard  # pyright: ignore[reportIncompatibleVariableOverride]
    assignment: SinkhornCard = SinkhornCard()

"""The SwAV method: each view predicts to which prototypes the others were assigned (supplement, section A)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from carp_eval.cards.swav import SwavRecipe
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.models.network import Network
from carp_eval.pretrain import together, unit_prototypes
from carp_eval.pretrain.carp import embed
from carp_eval.pretrain.embedding_queue import EmbeddingQueue
from carp_eval.pretrain.method import Losses, Method, Step
from carp_eval.pretrain.swav_loss import swapped_prediction


class Swav(Method[SwavRecipe]):
    """One network, its prototypes, and a queue where batches are small."""

    sign_names: ClassVar[Mapping[str, str]] = {"prototypes_used": "prototypes used"}

    def __init__(self, recipe: SwavRecipe, *, device: torch.device) -> None:
        self.recipe = recipe
        self.student = unit_prototypes.build(recipe, learned=recipe.prototypes.learned, device=device)
        self._queue: EmbeddingQueue | None = None
        if recipe.queue.length:
            self._queue = EmbeddingQueue(
                recipe.queue.length,
                num_views=recipe.num_assigned,
                dim=recipe.head.output_dim,
                device=device,
            )

    def loss(self, batch: TrainingBatch, *, student: nn.Module, step: Step) -> Losses:
        """Take the loss of one step; the queue holds the batches before this one."""
        embedded = embed(student, batch.views)
        prototypes, recipe, queue = unit_prototypes.of(self.student), self.recipe, self._queue
        # float32 whatever the networks run in: a score over epsilon = 0.05 has no digit to spare.
        with torch.autocast(prototypes.device.type, enabled=False):
            embedded = F.normalize(embedded.float(), dim=-1)
            earlier = [] if queue is None else queue.rows()
            loss = swapped_prediction(
                embedded @ prototypes.T,
                num_assigned=recipe.num_assigned,
                temperature=recipe.temperature,
                epsilon=recipe.assignment.epsilon,
                iterations=recipe.assignment.iterations,
                hard=recipe.assignment.hard,
                queued=[rows @ prototypes.detach().T for rows in earlier],
            )
        if queue is None:
            return Losses(together.mean(loss))
        if step.epoch >= recipe.queue.start_epoch:
            queue.push(embedded[: recipe.num_assigned])
        return Losses(together.mean(loss), {"queue_filled": queue.share_filled})

    def before_update(self, step: Step) -> None:
        """Hold the prototypes at first (A.1)."""
        if unit_prototypes.frozen(self.recipe.prototypes, step):
            unit_prototypes.stand_still(self.student)

    def after_update(self, step: Step) -> None:
        """Scale the prototypes to unit length again, as the pseudo-code of A.1 does."""
        card = self.recipe.prototypes
        if card.learned and not unit_prototypes.frozen(card, step):
            unit_prototypes.scale(self.student)

    def state(self) -> dict[str, Tensor]:
        """Return the queue."""
        return {} if self._queue is None else self._queue.state()

    def take_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on with a queue."""
        if self._queue is not None:
            self._queue.take_state(state)

    def describe(self) -> str:
        """Say how many prototypes there are, and how long the queue is."""
        fixed = "" if self.recipe.prototypes.learned else "fixed "
        queue = f", a queue of {self.recipe.queue.length}" if self.recipe.queue.length else ""
        return f"{self.recipe.prototypes.count} {fixed}prototypes{queue}"

    def notes(self) -> list[str]:
        """Say what a batch that is small against the prototypes needs."""
        images, count = self.recipe.schedule.batch_size, self.recipe.prototypes.count
        if self.recipe.queue.length or images * 4 > count:
            return []
        return [
            f"{images} images share {count} prototypes in a step: such small batches need a queue (queue.length), or "
            "fewer prototypes"
        ]

    def signs(self, network: Network, embeddings: Float[Tensor, "image dim"]) -> dict[str, float]:
        """Return the share of prototypes that are some image's nearest."""
        return {"prototypes_used": unit_prototypes.used(self.recipe, network, F.normalize(embeddings))}

    def warnings(self, seen: Mapping[str, float]) -> dict[str, str]:
        """Say in words what looks wrong: predictions that stay even, prototypes left aside, features that collapse."""
        remedy = "Lower assignment.epsilon (0.03), take a larger batch or a queue, or set assignment.hard"
        return unit_prototypes.warnings(self.recipe, seen=seen, remedy=remedy)

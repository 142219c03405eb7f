"""The MoCo v2 method: tell the key of a view from a queue of others (He et al., CVPR 2020; Chen et al., 2003.04297)."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from carp_eval import distributed, optim
from carp_eval.cards.moco import MocoRecipe
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.models import network
from carp_eval.pretrain import pairs, spread, teacher, together
from carp_eval.pretrain.method import Losses, Method, Step
from carp_eval.pretrain.moco_loss import Queue, info_nce
from carp_eval.seeds import generator


class Moco(Method[MocoRecipe]):
    """A student that makes queries, a teacher that makes keys, and the keys of earlier steps as negatives.

    Images are shuffled before the teacher sees them, over all processes, and normalised in groups: could a key and its
    query share BatchNorm's statistics, the network would know them by these (section 3.3 of He et al.). On one process,
    where their code has no groups, the groups of `teacher.groups` do the same.
    """

    def __init__(self, recipe: MocoRecipe, *, device: torch.device) -> None:
        self.recipe = recipe
        self.student = network.build(recipe, seed=recipe.seed).to(device)
        self.teacher = teacher.copy_of(self.student)
        self.queue = Queue(recipe.queue.length, dim=recipe.head.output_dim, seed=recipe.seed, device=device)
        self._pairs = pairs.ordered(recipe.views)
        # By the number of the loss that was taken, of which micro-batches have one each.
        self._fresh: dict[int, Tensor] = {}

    def loss(self, batch: TrainingBatch, *, student: nn.Module, step: Step) -> Losses:
        """Take the loss of one step."""
        queries = {own: student(batch.views[own]) for own in sorted({own for own, _ in self._pairs})}
        keys = {
            other: self._keys(batch.views[other], step=step, view=other)
            for other in pairs.seen_by_teacher(self.recipe.views)
        }
        num_images = len(batch.index)
        mine = slice(distributed.rank() * num_images, (distributed.rank() + 1) * num_images)
        embedded = torch.stack([queries[own] for own, _ in self._pairs])
        with torch.autocast(embedded.device.type, enabled=False):
            loss = info_nce(
                embedded,
                torch.stack([keys[other][mine] for _, other in self._pairs]),
                self.queue.keys,
                temperature=self.recipe.loss.temperature,
            )
            self._fresh[step.number] = torch.cat(list(keys.values()))
            shown = {"spread": spread.spread(embedded), "teacher_momentum": self._momentum(step)}
            return Losses(loss, shown)

    def after_update(self, step: Step) -> None:
        """Let the teacher follow the student, and put the step's keys into the queue."""
        assert self.teacher is not None
        teacher.follow(self.teacher, self.student, momentum=self._momentum(step))
        # Not before: the gradient needs the negatives as they were.
        self.queue.put(torch.cat(list(self._fresh.values())), step=step.number)
        self._fresh.clear()

    def state(self) -> dict[str, Tensor]:
        """Return the queue."""
        return {"queue": self.queue.keys}

    def take_state(self, state: Mapping[str, Tensor]) -> None:
        """Take up the queue."""
        # Its own memory: what was read may lie in the file still.
        self.queue.keys = state["queue"].to(self.queue.keys.device, copy=True)

    def describe(self) -> str:
        """Say how many negatives there are."""
        return f"{self.recipe.queue.length} negatives"

    def warnings(self, seen: Mapping[str, float]) -> dict[str, str]:
        """Say in words what looks wrong: keys that are not told apart, embeddings that collapse."""
        most = math.log(1 + self.recipe.queue.length)
        said: dict[str, str] = {}
        if seen.get("loss", 0.0) > 0.98 * most:
            said["loss"] = (
                f"Keys are not told from the queue's: the loss {seen['loss']:.2f} is that of one embedding for all, "
                f"{most:.2f}. Change optimiser.lr, or lower teacher.momentum where there are few steps."
            )
        # The loss may be low then: embeddings that all drift one way are told from the queue's by their age.
        advice = (
            "Lower optimiser.lr, raise teacher.momentum, or give the head norms (batch_norm, output_norm)"
        )
        return said | spread.warnings(seen, advice=advice)

    def _momentum(self, step: Step) -> float:
        card = self.recipe.teacher
        return optim.interpolate(card.schedule, card.momentum, card.final_momentum, progress=step.progress)

    @torch.no_grad()
    def _keys(
        self, images: Float[Tensor, "image channel size size"], *, step: Step, view: int
    ) -> Float[Tensor, "all dim"]:
        """Return the keys of one view of the images of all processes, by rank, each of unit length."""
        assert self.teacher is not None
        everywhere = together.gather_plain(images)
        chance = generator(self.recipe.seed, "shuffle", step.number, view)
        order = torch.randperm(len(everywhere), generator=chance).to(images.device)
        share = order.chunk(distributed.world_size())[distributed.rank()]
        groups = max(1, self.recipe.teacher.groups // distributed.world_size())
        embedded = torch.cat([self.teacher(everywhere[group]) for group in share.tensor_split(groups)])
        shuffled = together.gather_plain(functional.normalize(embedded.float(), dim=-1))
        return shuffled[order.argsort()]

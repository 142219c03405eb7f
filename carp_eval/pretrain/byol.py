"""The BYOL method (Grill et al., NeurIPS 2020): predict what a slow copy of oneself makes of another view."""

from collections.abc import Mapping

import torch
from torch import nn

from carp_eval import optim
from carp_eval.cards.byol import ByolRecipe
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.pretrain import pairs, predictor, spread, teacher
from carp_eval.pretrain.cosine_loss import byol_loss
from carp_eval.pretrain.method import Losses, Method, Step


class Byol(Method[ByolRecipe]):
    """A student with a predictor, and a teacher without: the online and the target network of section 3.1.

    Each view goes through a network by itself, so that BatchNorm's statistics are one view's, as in the authors' code.
    """

    def __init__(self, recipe: ByolRecipe, *, device: torch.device) -> None:
        self.recipe = recipe
        self.student = predictor.build(recipe, recipe.predictor, seed=recipe.seed).to(device)
        self.teacher = teacher.copy_of(predictor.judged_part(recipe, self.student)).to(device)
        self._pairs = pairs.ordered(recipe.views)

    def loss(self, batch: TrainingBatch, *, student: nn.Module, step: Step) -> Losses:
        """Take the loss of one step (equation 2, both directions)."""
        predictions = {own: student(batch.views[own])[1] for own in sorted({own for own, _ in self._pairs})}
        with torch.no_grad():
            assert self.teacher is not None
            targets = {other: self.teacher(batch.views[other]) for other in {pair[1] for pair in self._pairs}}
        predicted = torch.stack([predictions[own] for own, _ in self._pairs])
        met = torch.stack([targets[other] for _, other in self._pairs])
        with torch.autocast(predicted.device.type, enabled=False):
            return Losses(
                byol_loss(predicted, met),
                {"spread": spread.spread(met[0]), "teacher_momentum": self.momentum(step.progress)},
            )

    def momentum(self, progress: float) -> float:
        """Return tau of a step."""
        card = self.recipe.teacher
        return optim.interpolate(card.schedule, card.momentum, card.final_momentum, progress=progress)

    def after_update(self, step: Step) -> None:
        """Let the teacher follow the student that the step has moved (section 3.1); the predictor has no copy."""
        assert self.teacher is not None
        for part in ("trunk", "head"):
            teacher.follow(
                self.teacher.get_submodule(part),
                self.student.get_submodule(part),
                momentum=self.momentum(step.progress),
            )

    def describe(self) -> str:
        """Say how fast the teacher follows."""
        return f"a teacher that keeps {self.recipe.teacher.momentum:.3g} of itself each step"

    def warnings(self, seen: Mapping[str, float]) -> dict[str, str]:
        """Say in words that embeddings or features have collapsed."""
        advice = "Raise teacher.momentum, give head and predictor their BatchNorm, or lower optimiser.lr"
        return spread.warnings(seen, advice=advice)

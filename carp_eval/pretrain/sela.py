"""The SeLa-v2 method: even labels for all images, once an epoch, and prototypes that learn (SwAV supplement, D)."""

import torch
from jaxtyping import Int64
from torch import Tensor

from carp_eval.cards.swav import SelaRecipe
from carp_eval.pretrain import together, unit_prototypes
from carp_eval.pretrain.even_labels import even_labels
from carp_eval.pretrain.feature_memory import FeatureMemory
from carp_eval.pretrain.method import Step
from carp_eval.pretrain.pseudo_labels import UNLABELLED, PseudoLabelled


class Sela(PseudoLabelled[SelaRecipe]):
    """One network, whose prototypes are trained with it (equation 4).

    Its code was never published. Where the supplement is silent: a label is an image's largest share, as in the first
    SeLa, and sets go by the views in turn, as in DeepCluster-v2's code.
    """

    def __init__(self, recipe: SelaRecipe, *, device: torch.device) -> None:
        super().__init__(recipe, learned=True, device=device)

    def assign(self, memory: FeatureMemory, *, epoch: int, num_images: int) -> Int64[Tensor, "set image"]:
        """Label images evenly by the prototypes as they stand (equation 6), each process its own."""
        del epoch
        sets, card = self.recipe.prototypes.sets, self.recipe.assignment
        labels = torch.full((sets, num_images), UNLABELLED)
        index = together.gather_plain(memory.index)
        for number, own in enumerate(unit_prototypes.of(self.student).detach().chunk(sets)):
            found = even_labels(
                memory.features[:, number % self.recipe.num_assigned],
                own,
                epsilon=card.epsilon,
                iterations=card.iterations,
            )
            labels[number, index] = together.gather_plain(found)
        return labels

    def before_update(self, step: Step) -> None:
        """Hold the prototypes at first, as SwAV does (A.1)."""
        if unit_prototypes.frozen(self.recipe.prototypes, step):
            unit_prototypes.stand_still(self.student)

    def after_update(self, step: Step) -> None:
        """Scale the prototypes to unit length again (A.1)."""
        if not unit_prototypes.frozen(self.recipe.prototypes, step):
            unit_prototypes.scale(self.student)

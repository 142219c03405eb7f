"""Prototypes of unit length, as SwAV, DeepCluster-v2 and SeLa-v2 have them, and what shows that they go wrong."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from carp_eval.cards.swav import AssignmentRecipe, LearnedPrototypesCard
from carp_eval.models import network
from carp_eval.models.network import Network, PrototypeNetwork
from carp_eval.pretrain import signs
from carp_eval.pretrain.method import Step


def build(recipe: AssignmentRecipe, *, learned: bool, device: torch.device) -> PrototypeNetwork:
    """Build a network whose prototypes are of unit length.

    Args:
        recipe: What is trained.
        learned: Whether gradients move the prototypes.
        device: Where.
    """
    built = network.build(recipe, seed=recipe.seed).to(device)
    scale(built)
    of(built).requires_grad = learned
    assert isinstance(built, PrototypeNetwork)
    return built


def of(network: Network) -> nn.Parameter:
    """Return a network's prototypes, sets one below another."""
    assert isinstance(network, PrototypeNetwork)
    return network.prototypes.weight


@torch.no_grad()
def scale(network: Network) -> None:
    """Scale a network's prototypes to unit length, in place."""
    of(network).copy_(nn.functional.normalize(of(network), dim=1))


def frozen(card: LearnedPrototypesCard, step: Step) -> bool:
    """Tell whether a step still leaves the prototypes where they are."""
    return step.epoch < card.frozen_epochs


def stand_still(network: Network) -> None:
    """Let the coming update leave the prototypes where they are, their decay and momentum included."""
    of(network).grad = None


def used(recipe: AssignmentRecipe, network: Network, embeddings: Float[Tensor, "image dim"]) -> float:
    """Return the share of prototypes that are some image's nearest, the mean over sets."""
    sets = of(network).detach().cpu().chunk(recipe.prototypes.sets)
    shares = [signs.prototypes_used(embeddings, one, unit_norm=True) for one in sets]
    return sum(shares) / len(shares)


def warnings(recipe: AssignmentRecipe, *, seen: Mapping[str, float], remedy: str) -> dict[str, str]:
    """Say in words what looks wrong, by the sign that shows it.

    Args:
        recipe: What is being trained.
        seen: `loss`, `prototypes_used`, `effective_rank`; any may be missing.
        remedy: What helps against assignments that tell nothing, or that fall to few prototypes.
    """
    even = math.log(recipe.prototypes.count)
    said: dict[str, str] = {}
    if 0.98 * even < seen.get("loss", 0.0) < 1.02 * even:
        said["loss"] = (
            f"The loss is {seen['loss']:.2f}, and ln {recipe.prototypes.count} is {even:.2f}: all prototypes are as "
            f"likely, nothing is told apart. {remedy}, or make the views easier (fewer of them, larger crops)."
        )
    if seen.get("prototypes_used", 1.0) < 0.05:
        said["prototypes_used"] = (
            f"Only {seen['prototypes_used']:.1%} of the prototypes are any image's nearest. {remedy}, or lower "
            "prototypes.count."
        )
    return said | signs.few_directions(seen, advice=f"{remedy}, or lower optimiser.lr")

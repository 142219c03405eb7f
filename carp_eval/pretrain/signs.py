"""Signs of collapse: what to watch while a model trains, and what to say when it goes wrong."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from carp_eval.cards.carp import CarpRecipe


def prototypes_used(
    embeddings: Float[Tensor, "image dim"],
    prototypes: Float[Tensor, "prototype dim"],
    *,
    unit_norm: bool,
    chunk: int = 1024,
) -> float:
    """Return the share of prototypes that are some image's nearest.

    With fewer images than prototypes not all can be: the share is of the smaller of the two numbers.
    """
    if unit_norm:
        prototypes = torch.nn.functional.normalize(prototypes)
    nearest = torch.cat([(part @ prototypes.T).argmax(dim=1) for part in embeddings.split(chunk)])
    return nearest.unique().numel() / min(len(embeddings), len(prototypes))


def too_early(progress: float) -> bool:
    """Tell whether nothing can be judged yet: in the first twentieth of a training."""
    return progress < 0.05


def few_directions(seen: Mapping[str, float], *, advice: str) -> dict[str, str]:
    """Say that the features have collapsed, if `effective_rank` shows it, and what to do."""
    if seen.get("effective_rank", math.inf) >= 3:
        return {}
    words = f"The features span {seen['effective_rank']:.1f} directions: they have collapsed. {advice}."
    return {"effective_rank": words}


def warnings(recipe: CarpRecipe, *, signs: Mapping[str, float]) -> dict[str, str]:
    """Say in words what looks wrong in a training of CARP, by the sign that shows it.

    Args:
        recipe: What is being trained.
        signs: What was seen: `kl`, `consistency`, `prototypes_used`, `effective_rank`; any may be missing.
    """
    most = math.log(recipe.partition.block_size)
    directions = 2 if recipe.loss.convention == "sum" else 1
    said: dict[str, str] = {}
    if signs.get("kl", 0.0) > most / 2:
        said["kl"] = (
            f"Views gather on few prototypes: KL {signs['kl']:.2f}, where 0 is even use and {most:.2f} is "
            "collapse. Raise loss.entropy_weight, lower partition.block_size, or take a larger batch."
        )
    if signs.get("consistency", 0.0) > 0.98 * directions * most:
        said["consistency"] = (
            f"Assignments are still even: the consistency {signs['consistency']:.2f} has not left its start, "
            f"{directions * most:.2f}. Raise optimiser.lr, or lower loss.entropy_weight."
        )
    if signs.get("prototypes_used", 1.0) < 0.05:
        said["prototypes_used"] = (
            f"Only {signs['prototypes_used']:.1%} of the prototypes are any image's nearest. Raise "
            "loss.entropy_weight, or lower prototypes.count."
        )
    advice = "Raise loss.entropy_weight, lower optimiser.lr, or train with a teacher"
    return said | few_directions(signs, advice=advice)

"""The method of a recipe: ours by one literal table, others' by entry point."""

from collections.abc import Callable

import torch

from carp_eval import plugins
from carp_eval.cards import methods as cards
from carp_eval.cards.recipe import RecipeCard
from carp_eval.errors import PluginError, UnknownNameError
from carp_eval.pretrain.barlow import BarlowTwins
from carp_eval.pretrain.byol import Byol
from carp_eval.pretrain.carl import Carl
from carp_eval.pretrain.carp import Carp
from carp_eval.pretrain.deepcluster import DeepCluster
from carp_eval.pretrain.method import Method
from carp_eval.pretrain.moco import Moco
from carp_eval.pretrain.sela import Sela
from carp_eval.pretrain.simclr import Simclr
from carp_eval.pretrain.simsiam import Simsiam
from carp_eval.pretrain.swav import Swav

# Builds a method's networks on a device.
Build = Callable[..., Method]

METHODS: dict[str, Build] = {
    "carp": Carp,
    "carl": Carl,
    "simclr": Simclr,
    "byol": Byol,
    "simsiam": Simsiam,
    "moco-v2": Moco,
    "barlow-twins": BarlowTwins,
    "swav": Swav,
    "deepcluster-v2": DeepCluster,
    "sela-v2": Sela,
}


def build(recipe: RecipeCard, *, device: torch.device) -> Method:
    """Build the method of a recipe.

    Args:
        recipe: What to train.
        device: Where.

    Raises:
        UnknownNameError: If there is no such method.
        PluginError: If its package does not work.
    """
    name = recipe.method
    if name in METHODS:
        return METHODS[name](recipe, device=device)
    brought = cards.plugin(name)
    if brought is None:
        raise UnknownNameError("method", name, (*METHODS, *plugins.names(plugins.METHODS)))
    method = plugins.resolve(plugins.METHODS, name, brought.build)(recipe, device=device)
    if not isinstance(method, Method):
        raise PluginError(
            f"{brought.build} must build a {Method.__module__}.{Method.__name__} and gave a {type(method).__name__}: "
            f"the package that brings the method {name} is broken"
        )
    return method

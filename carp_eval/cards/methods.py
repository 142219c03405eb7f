"""Which class reads a recipe of which method: ours by one literal table, others' by entry point."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carp_eval import plugins
from carp_eval.cards.barlow import BarlowRecipe
from carp_eval.cards.byol import ByolRecipe
from carp_eval.cards.carl import CarlRecipe
from carp_eval.cards.carp import CarpRecipe
from carp_eval.cards.moco import MocoRecipe
from carp_eval.cards.recipe import RecipeCard
from carp_eval.cards.shelf import RECIPES, folder
from carp_eval.cards.simclr import SimclrRecipe
from carp_eval.cards.simsiam import SimsiamRecipe
from carp_eval.cards.swav import DeepClusterRecipe, SelaRecipe, SwavRecipe
from carp_eval.errors import PluginError, UnknownNameError

TYPES: dict[str, type[RecipeCard]] = {
    "carp": CarpRecipe,
    "carl": CarlRecipe,
    "simclr": SimclrRecipe,
    "byol": ByolRecipe,
    "simsiam": SimsiamRecipe,
    "moco-v2": MocoRecipe,
    "barlow-twins": BarlowRecipe,
    "swav": SwavRecipe,
    "deepcluster-v2": DeepClusterRecipe,
    "sela-v2": SelaRecipe,
}


@dataclass(frozen=True)
class MethodPlugin:
    """A pretraining method that another package brings.

    Attributes:
        recipe: Reads its recipes: `RecipeCard` with `method` set to its name, and the method's own tables.
        build: Where its `pretrain.method.Method` is, as `module:class`; imported when a training starts.
        recipes: Folder of its recipes, `NAME.toml` each, which `carp train NAME` finds.
    """

    recipe: type[RecipeCard]
    build: str
    recipes: Path | None = None


def plugin(name: str) -> MethodPlugin | None:
    """Return a method that another package brings; None if none does.

    Raises:
        PluginError: If its package does not work.
    """
    return plugins.load(plugins.METHODS, name, MethodPlugin)


def recipe_type(content: Mapping[str, Any]) -> type[RecipeCard]:
    """Return the class that reads a recipe of this content's method.

    Raises:
        UnknownNameError: If there is no such method.
        PluginError: If its package does not work.
    """
    name = content.get("method")
    if not isinstance(name, str):
        # What is wrong with it, the class says.
        return RecipeCard
    if name in TYPES:
        return TYPES[name]
    brought = plugin(name)
    if brought is None:
        raise UnknownNameError("method", name, (*TYPES, *plugins.names(plugins.METHODS)))
    return brought.recipe


def recipes(*, on_broken: Callable[[PluginError], None] | None = None) -> dict[str, Path]:
    """Return every recipe that has a name: ours, and those of other packages' methods.

    Args:
        on_broken: Is told of packages that do not work, whose recipes nobody can tell; None stops at the first.

    Raises:
        PluginError: If a package does not work, and nobody is to be told.
    """
    found: dict[str, Path] = {}
    for name in plugins.names(plugins.METHODS):
        try:
            brought = plugin(name)
        except PluginError as error:
            if on_broken is None:
                raise
            on_broken(error)
            continue
        if brought is not None and brought.recipes is not None:
            found |= {path.stem: path for path in brought.recipes.glob("*.toml")}
    ours = {path.stem: path for path in folder(RECIPES).glob("*.toml")}
    return dict(sorted((found | ours).items()))

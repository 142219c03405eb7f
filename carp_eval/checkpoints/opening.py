"""From the spelling of a model to a frozen network."""

import difflib
from pathlib import Path
from typing import Literal

from torch import nn

from carp_eval.cards import loading
from carp_eval.cards.recipe import RecipeCard
from carp_eval.checkpoints import reading, runs, training
from carp_eval.data.images import ModelInput
from carp_eval.errors import UnknownNameError, UsageError
from carp_eval.models import network, trunks
from carp_eval.models.model import Model, weights_sha256

Branch = Literal["teacher", "student"]
Layer = Literal["pool", "projection"]

_BASELINES = ("random", "pixels")
SPELLINGS = (
    "a run folder, a checkpoint file (.pt) of `carp train`, random:RECIPE (the recipe's network before "
    "training) or pixels:RECIPE (its input, flattened)"
)


def open_model(spelling: str | None = None, *, branch: Branch = "teacher", layer: Layer = "pool") -> Model:
    """Open a model, ready to turn images into features.

    Args:
        spelling: A run folder, a checkpoint file, `random:RECIPE` or `pixels:RECIPE`, where a recipe is
            a name, a `.toml` path, a run folder or a checkpoint file; None is the last trained run.
        branch: Which of the two networks of a training.
        layer: `pool`, the trunk's pooled output, or `projection`, the head's.

    Raises:
        UsageError: If the spelling leads to nothing, or nothing was trained yet.
        CheckpointError: If the weights are unreadable or do not fit.
    """
    if spelling is None:
        return _trained(runs.last_folder(), branch=branch, layer=layer)
    kind, colon, rest = spelling.partition(":")
    if colon and kind == "random":
        recipe = _recipe_of(rest)
        fresh = network.build(recipe, seed=recipe.seed)
        return _frozen(spelling, fresh, recipe, branch="", layer=layer, folder=None)
    if colon and kind == "pixels":
        return _pixels(spelling, _recipe_of(rest))
    path = Path(spelling).expanduser()
    if colon and not path.exists() and difflib.get_close_matches(kind, _BASELINES):
        raise UnknownNameError("kind of model", f"{kind}:", [f"{name}:" for name in _BASELINES])
    if not path.exists():
        raise UsageError(f"there is no model {spelling!r}. A model is {SPELLINGS}")
    return _trained(path, branch=branch, layer=layer)


def _trained(path: Path, *, branch: Branch, layer: Layer) -> Model:
    file = runs.checkpoint_path(path) if path.is_dir() else path
    checkpoint = training.load(file)
    state = checkpoint.teacher if branch == "teacher" else checkpoint.student
    if not state:
        branch, state = "student", checkpoint.student
    filled = network.build(checkpoint.recipe, seed=0)
    reading.fill(filled, state, where=f"the {branch} in {file}")
    folder = file.parent.parent if file.parent.name == "checkpoints" else None
    name = folder.name if folder is not None and file.name == "last.pt" else str(file)
    return _frozen(name, filled, checkpoint.recipe, branch=branch, layer=layer, folder=folder)


def _recipe_of(name: str) -> RecipeCard:
    path = Path(name).expanduser()
    # A path of no characters is the folder one stands in.
    if not name or name.endswith(".toml") or not path.exists():
        return loading.recipe(name)
    return training.load(runs.checkpoint_path(path) if path.is_dir() else path).recipe


def _frozen(
    name: str, whole: network.Network, recipe: RecipeCard, *, branch: str, layer: Layer, folder: Path | None
) -> Model:
    judged: nn.Module = whole.trunk if layer == "pool" else nn.Sequential(whole.trunk, whole.head)
    judged.eval().requires_grad_(requires_grad=False)
    width = trunks.feature_dim(whole.trunk) if layer == "pool" else recipe.head.output_dim
    return Model(
        name=name,
        network=judged,
        input=_input_of(recipe),
        feature_dim=width,
        weights_sha256=weights_sha256(judged.state_dict()),
        branch=branch,
        layer=layer,
        dataset=recipe.data.name,
        folder=folder,
    )


def _pixels(name: str, recipe: RecipeCard) -> Model:
    model_input = _input_of(recipe)
    return Model(
        name=name,
        network=trunks.Pixels().eval(),
        input=model_input,
        feature_dim=model_input.channels * model_input.native_size**2,
        weights_sha256=weights_sha256({}),
        dataset=recipe.data.name,
    )


def _input_of(recipe: RecipeCard) -> ModelInput:
    return ModelInput(native_size=recipe.views[0].size, mean=recipe.data.mean, std=recipe.data.std)

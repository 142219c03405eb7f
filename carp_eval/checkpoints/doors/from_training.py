"""Models of a training of ours, and the baselines of its recipe."""

from pathlib import Path
from typing import get_args

from torch import nn

from carp_eval.cards import loading
from carp_eval.cards.checkpoint import Architecture
from carp_eval.cards.recipe import RecipeCard
from carp_eval.checkpoints import assembling, reading, runs, training
from carp_eval.checkpoints.assembling import Branch, Layer
from carp_eval.data.images import ModelInput
from carp_eval.models import network, trunks
from carp_eval.models.model import Model

_ARCHITECTURES: dict[str, Architecture] = {name: name for name in get_args(Architecture)}


def trained(file: Path, *, branch: Branch | None, layer: Layer) -> Model:
    """Open a checkpoint of `carp train`.

    Raises:
        CheckpointError: If it is unreadable, or its weights do not fit its recipe.
    """
    checkpoint = training.load(file)
    branch = branch or checkpoint.recipe.judged
    state = checkpoint.teacher if branch == "teacher" else checkpoint.student
    if not state:
        branch, state = "student", checkpoint.student
    filled = network.build(checkpoint.recipe, seed=0)
    reading.fill(filled, network.entries(checkpoint.recipe, state), where=f"the {branch} in {file}")
    folder = file.parent.parent if file.parent.name == "checkpoints" else None
    name = folder.name if folder is not None and file.name == Path(runs.LAST).name else str(file)
    return _of_recipe(name, filled, checkpoint.recipe, branch=branch, layer=layer, folder=folder)


def random(name: str, what: str, *, branch: Branch | None, layer: Layer) -> Model:
    """Open a network before training.

    Args:
        name: What results should call it.
        what: A recipe, or an architecture of the zoo.
        branch: `student` is an error: there is one network.
        layer: An architecture has no projection, a recipe has.

    Raises:
        UsageError: If there is no such recipe, branch or layer.
    """
    assembling.branch_of(("single",), branch, name=name)
    if what in _ARCHITECTURES:
        assembling.check_pool(name, layer)
        trunk = trunks.released(_ARCHITECTURES[what])
        return assembling.frozen(
            name, trunk, model_input=assembling.IMAGENET, feature_dim=trunks.feature_dim(trunk)
        )
    recipe = _recipe(what)
    return _of_recipe(
        name, network.build(recipe, seed=recipe.seed), recipe, branch="", layer=layer, folder=None
    )


def pixels(name: str, what: str, *, branch: Branch | None, layer: Layer) -> Model:
    """Open the baseline that takes a recipe's input, flattened, for features.

    Raises:
        UsageError: If there is no such recipe, branch or layer.
    """
    recipe = _recipe(what)
    assembling.check_single(name, branch=branch, layer=layer)
    model_input = _input_of(recipe)
    return assembling.frozen(
        name,
        trunks.Pixels(),
        model_input=model_input,
        feature_dim=model_input.channels * model_input.native_size**2,
        dataset=recipe.data.name,
    )


def _of_recipe(
    name: str, whole: network.Network, recipe: RecipeCard, *, branch: str, layer: Layer, folder: Path | None
) -> Model:
    pooled = layer == "pool"
    judged: nn.Module = whole.trunk if pooled else nn.Sequential(whole.trunk, whole.head)
    return assembling.frozen(
        name,
        judged,
        model_input=_input_of(recipe),
        feature_dim=trunks.feature_dim(whole.trunk) if pooled else recipe.head.output_dim,
        branch=branch,
        layer=layer,
        dataset=recipe.data.name,
        folder=folder,
    )


def _recipe(name: str) -> RecipeCard:
    path = Path(name).expanduser()
    # A path of no characters is the folder one stands in.
    if not name or name.endswith(".toml") or not path.exists():
        return loading.recipe(name)
    return training.load(runs.checkpoint_path(path) if path.is_dir() else path).recipe


def _input_of(recipe: RecipeCard) -> ModelInput:
    return ModelInput(native_size=recipe.views[0].size, mean=recipe.data.mean, std=recipe.data.std)

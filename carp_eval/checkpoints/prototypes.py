"""The prototypes of a training, and the embeddings that are held against them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from carp_eval.cards.recipe import PrototypeRecipe, RecipeCard
from carp_eval.cards.swav import AssignmentRecipe
from carp_eval.checkpoints import runs, training
from carp_eval.checkpoints.assembling import Branch
from carp_eval.checkpoints.doors import from_training
from carp_eval.checkpoints.opening import open_model
from carp_eval.errors import CheckpointError, UsageError
from carp_eval.models.model import Model, weights_sha256

PROTOTYPES = "prototypes.weight"
HEAD = "head."
# Of a model at its projection, the head comes behind the trunk.
HEAD_OF_MODEL = "1."


@dataclass(frozen=True)
class TrainedPrototypes:
    """A trained network up to its embeddings, and one set of prototypes, compared as its method compares them.

    Attributes:
        model: Trunk and head: the model at its layer `projection`.
        rows: The prototypes, of unit length where the recipe says so.
        method: The method that learnt them.
        unit_embeddings: Whether embeddings are scaled to unit length before they are compared.
        temperature: What their inner products are divided by before the softmax.
        number: Which set of prototypes, from 0.
        sets: How many sets there are.
    """

    model: Model
    rows: Float[Tensor, "prototype dim"]
    method: str
    unit_embeddings: bool
    temperature: float
    number: int
    sets: int

    def __len__(self) -> int:
        return len(self.rows)

    def describe(self) -> dict[str, Any]:
        """Say what an assignment is made with, in plain values."""
        return {
            "method": self.method,
            "prototypes": len(self),
            "set": self.number,
            "sets": self.sets,
            "unit_embeddings": self.unit_embeddings,
            "temperature": self.temperature,
            "sha256": weights_sha256({PROTOTYPES: self.rows}),
            "confidence": "softmax over all prototypes of the set",
        }


def open_prototypes(
    spelling: str | None, *, branch: Branch | None = None, number: int = 0
) -> TrainedPrototypes:
    """Open the prototypes of a training, with the network whose embeddings they are compared with.

    CARP compares z as it is with prototypes of unit length, CARL neither scaled; SwAV, DeepCluster-v2 and SeLa-v2 scale
    both and divide by their temperature.

    Args:
        spelling: A run folder or a checkpoint of `carp train`; None is the last trained run.
        branch: `teacher` or `student`; None is the teacher where there is one.
        number: Which set of prototypes, of a method that learns several.

    Raises:
        UsageError: If the model has no prototypes, or not so many sets.
        CheckpointError: If it cannot be read.
    """
    file = _training_file(spelling)
    if file is None:
        assert spelling is not None
        model = open_model(spelling, branch=branch)
        raise UsageError(
            f"{model.name} has no prototypes: it is a trunk alone. Those of a training are in its run folder or its "
            "checkpoint file: -m runs/RUN"
        )
    checkpoint = training.load(file)
    recipe = checkpoint.recipe
    model = from_training.trained(file, branch=branch, layer="projection")
    state = checkpoint.teacher if model.branch == "teacher" else checkpoint.student
    if not isinstance(recipe, PrototypeRecipe) or PROTOTYPES not in state:
        raise UsageError(
            f"{model.name} was trained by {recipe.method}, which has no prototypes: nothing can be assigned to them"
        )
    _check_of_one_moment(model, state, file)
    card = recipe.prototypes
    if not 0 <= number < card.sets:
        raise UsageError(
            f"{model.name} has {card.sets} set{'s' if card.sets > 1 else ''} of prototypes, numbered from 0; there is "
            f"no set {number}"
        )
    rows = state[PROTOTYPES].detach().float().split(card.count)[number].clone()
    unit_embeddings, temperature = _comparison(recipe)
    return TrainedPrototypes(
        model=model,
        rows=torch.nn.functional.normalize(rows) if card.unit_norm else rows,
        method=recipe.method,
        unit_embeddings=unit_embeddings,
        temperature=temperature,
        number=number,
        sets=card.sets,
    )


def _training_file(spelling: str | None) -> Path | None:
    """Return the checkpoint of `carp train` that a spelling means; None where it means another model."""
    path = runs.last_folder() if spelling is None else Path(spelling).expanduser()
    if path.is_dir() and (path / runs.LAST).is_file():
        return path / runs.LAST
    if not path.is_file():
        return None
    try:
        training.load(path)
    except CheckpointError:
        # Of others: what is wrong with it, or what it is, the door for all models says.
        return None
    return path


def _comparison(recipe: RecipeCard) -> tuple[bool, float]:
    """Tell whether embeddings have unit length, and the temperature."""
    if isinstance(recipe, AssignmentRecipe):
        return True, recipe.temperature
    return False, 1.0


def _check_of_one_moment(model: Model, state: dict[str, Tensor], file: Path) -> None:
    """Make sure that network and prototypes are of one checkpoint: a training may have written another between."""
    head = {
        name.removeprefix(HEAD_OF_MODEL): value
        for name, value in model.network.state_dict().items()
        if name.startswith(HEAD_OF_MODEL)
    }
    if any(not torch.equal(value, state[f"{HEAD}{name}"]) for name, value in head.items()):
        raise CheckpointError(f"{file} was replaced while it was read: a training is under way; try again")

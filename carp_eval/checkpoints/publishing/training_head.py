"""What a training has learnt above the trunk: the projection head, and the prototypes where the method has them."""

from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from carp_eval.cards.frozen import Frozen
from carp_eval.checkpoints import runs, training
from carp_eval.checkpoints.training import TrainingCheckpoint
from carp_eval.errors import CheckpointError, UsageError
from carp_eval.models.model import Model, weights_sha256

NAME = "head.safetensors"
# The file's only entry of metadata: the writer puts several in an order of chance, and equal heads would differ.
ENTRY = "carp"
TRUNK = "trunk."


class TrainingHeadRecord(Frozen):
    """What rebuilds the head.

    Attributes:
        version: Of this record.
        recipe: The training's recipe, as JSON: its `head` and what its method adds say how the entries are used.
        branch: Which of the two networks of the training.
        input_dim: Width of the features that go in.
        trunk_sha256: The trunk's weights.
    """

    version: int = 1
    recipe: str
    branch: str
    input_dim: int
    trunk_sha256: str


def pack(model: Model) -> bytes:
    """Return the file of the head that was trained with a model's trunk; the same bytes for the same head.

    Raises:
        UsageError: If the model is of no training of ours.
        CheckpointError: If the training has no checkpoint of these weights.
    """
    if model.folder is None or not (model.folder / runs.RECIPE).is_file():
        raise UsageError(
            f"{model.name} is no run of `carp train`: there is no head to publish, leave --with-head out"
        )
    tried: list[str] = []
    for path in _checkpoints(model):
        checkpoint = training.load(path)
        state = _state(checkpoint, model.branch)
        trunk = {name.removeprefix(TRUNK): tensor for name, tensor in state.items() if name.startswith(TRUNK)}
        if weights_sha256(trunk) == model.weights_sha256:
            return _packed(model, checkpoint, state)
        tried.append(str(path))
    raise CheckpointError(
        f"no checkpoint has the weights of {model.name} (looked at {', '.join(tried) or 'none'}): the run went on "
        "since it was opened; open it again"
    )


def _checkpoints(model: Model) -> list[Path]:
    """List where the weights may be: the file that the model was named by, and the run's last."""
    named = Path(model.name)
    folder = model.folder or Path()
    return [path for path in (named, folder / runs.LAST) if path.is_file()]


def _state(checkpoint: TrainingCheckpoint, branch: str) -> dict[str, Tensor]:
    return checkpoint.teacher if branch == "teacher" else checkpoint.student


def _packed(model: Model, checkpoint: TrainingCheckpoint, state: dict[str, Tensor]) -> bytes:
    record = TrainingHeadRecord(
        recipe=checkpoint.recipe.model_dump_json(),
        branch=model.branch,
        input_dim=model.feature_dim,
        trunk_sha256=model.weights_sha256,
    )
    above = {name: tensor.contiguous() for name, tensor in state.items() if not name.startswith(TRUNK)}
    return save(above, metadata={ENTRY: record.model_dump_json()})

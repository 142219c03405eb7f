"""From a pretrained trunk: a training that starts where another model stands.

The trunk comes through the same door as any model that is judged, and must be the recipe's exactly, by its entries and
by its features.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from carp_eval.cards.recipe import RecipeCard
from carp_eval.checkpoints.opening import open_model
from carp_eval.checkpoints.reading import fill
from carp_eval.data.images import ModelInput
from carp_eval.errors import CheckpointError
from carp_eval.models import trunks
from carp_eval.models.model import Model
from carp_eval.pretrain.method import Method

# Sums in another order move a feature by less, another activation or stride by far more.
TOLERANCE = 1e-3
# Side of the images on which two trunks are compared: enough for what a ResNet has at its end to differ.
PROBE_SIZE = 64


@dataclass(frozen=True)
class InitialTrunk:
    """A trunk to start from.

    Attributes:
        name: The model it is of, as the recipe spells it.
        branch: Which of that model's networks; empty where it has one.
        weights_sha256: Its weights.
        input: What its model owns of preprocessing.
        entries: Its parameters and buffers, by the names of the recipe's trunk.
    """

    name: str
    branch: str
    weights_sha256: str
    input: ModelInput
    entries: dict[str, Tensor]

    def fill(self, method: Method) -> None:
        """Put the trunk into a method's networks."""
        for network in (method.student, method.teacher):
            if network is not None:
                fill(network.trunk, self.entries, where=self.name)

    def record(self) -> dict[str, Any]:
        """Return what a run notes of it."""
        return {"model": self.name, "branch": self.branch, "weights_sha256": self.weights_sha256}

    def notes(self, recipe: RecipeCard) -> list[str]:
        """Say what a person should know of it before the training starts, a line each."""
        frozen = recipe.init.freeze_epochs
        branch = f", its {self.branch}" if self.branch else ""
        said = [
            f"the trunk starts as that of {self.name}{branch} (weights {self.weights_sha256[:12]})"
            + (f", and stays so for {frozen} epoch{'s' if frozen > 1 else ''}" if frozen else "")
        ]
        ours, theirs = (recipe.data.mean, recipe.data.std), (self.input.mean, self.input.std)
        if ours != theirs:
            said.append(
                f"warning: {self.name} takes images with mean {list(theirs[0])} and deviation {list(theirs[1])}, and "
                f"this recipe normalises with {list(ours[0])} and {list(ours[1])}: set data.mean and data.std to keep "
                "what it has learnt"
            )
        return said


def open_trunk(recipe: RecipeCard) -> InitialTrunk | None:
    """Open the trunk that a recipe starts from; None where it starts from fresh weights.

    Raises:
        UsageError: If the spelling of the model leads to nothing.
        CheckpointError: If its weights cannot be had, or are not those of the recipe's trunk.
        HubError: If the Hub cannot be reached or refuses.
    """
    name = recipe.init.model
    if name is None:
        return None
    model = open_model(name)
    trunk = trunks.build(recipe.trunk)
    entries = {key: value.detach().cpu() for key, value in model.network.state_dict().items()}
    wanted = (
        f"{name} is no start for this recipe, whose trunk is {recipe.trunk.architecture} of {recipe.trunk.channels} "
        f"channels{'' if recipe.trunk.architecture == 'small' else f' with the {recipe.trunk.stem} stem'} (trunk.*)"
    )
    try:
        fill(trunk, entries, where=f"the trunk of {name}")
    except CheckpointError as error:
        raise CheckpointError(f"{wanted}: {error}") from error
    _check_same(trunk, model, channels=recipe.trunk.channels, wanted=wanted)
    return InitialTrunk(
        name=name,
        branch=model.branch,
        weights_sha256=model.weights_sha256,
        input=model.input,
        entries=entries,
    )


def hold_trunk(method: Method, *, still: bool) -> None:
    """Keep the trunks of a method as they are, or let them learn.

    One that is kept takes no gradient and runs in evaluation mode, so that BatchNorm neither normalises by the batch
    nor moves its statistics.
    """
    for network in (method.student, method.teacher):
        if network is not None:
            network.trunk.train(not still)
    method.student.trunk.requires_grad_(requires_grad=not still)


@torch.inference_mode()
def _check_same(trunk: nn.Module, model: Model, *, channels: int, wanted: str) -> None:
    """Make sure that entries of the same names and shapes are also used in the same way."""
    chance = torch.Generator().manual_seed(0)
    images = torch.randn(2, channels, PROBE_SIZE, PROBE_SIZE, generator=chance)
    device = next(model.network.parameters()).device
    theirs = model.network(images.to(device)).cpu()
    ours = trunk.eval()(images)
    apart = (ours - theirs).norm() / theirs.norm().clamp_min(torch.finfo(theirs.dtype).tiny)
    if not apart <= TOLERANCE:
        raise CheckpointError(
            f"{wanted}: it has the same entries and makes other features of them ({apart:.1%} apart), so it is built "
            "otherwise"
        )

"""From a network whose weights are in place to a frozen model."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from carp_eval.cards.checkpoint import Architecture, CheckpointCard, InputCard
from carp_eval.checkpoints import probe, reading
from carp_eval.data.images import ModelInput
from carp_eval.errors import UsageError
from carp_eval.models import trunks
from carp_eval.models.model import Model, network_sha256

Branch = Literal["teacher", "student"]
Layer = Literal["pool", "projection"]

# Of a file or module that tells nothing of its input: what nearly all of the field's models were trained with.
IMAGENET = ModelInput(
    native_size=InputCard().native_size,
    mean=InputCard().mean,
    std=tuple(float(value) for value in InputCard().std),
)
ASSUMED_INPUT = (
    "nothing tells what input it takes: it was given ImageNet's mean and deviation, at "
    f"{IMAGENET.native_size} px"
)

AnyBranch = TypeVar("AnyBranch", bound=str)


def of_trunk(
    name: str,
    trunk: nn.Module | Architecture,
    state: Mapping[str, Tensor],
    *,
    model_input: ModelInput = IMAGENET,
    where: str,
    branch: str = "",
    dataset: str | None = None,
    folder: Path | None = None,
    card: CheckpointCard | None = None,
    notes: tuple[str, ...] = (),
) -> Model:
    """Fill a trunk with its state, which must be exactly that, and make a model of it.

    Args:
        name: What results should call it.
        trunk: Which of the zoo's trunks, or one built otherwise, with fresh weights.
        state: Its entries, by torchvision's names.
        model_input: What the model owns of preprocessing.
        where: What to call the weights in an error.
        branch: `teacher`, `student`, or empty where there is only one.
        dataset: What it was trained on, where that is known.
        folder: Where results go, if it has a folder of its own.
        card: What its makers say of it.
        notes: What whoever reads its scores must know.

    Raises:
        CheckpointError: If the state is not the trunk's, or its features are those of no trained network.
    """
    network = filled(trunk, state, model_input=model_input, where=where)
    return frozen(
        name,
        network,
        model_input=model_input,
        feature_dim=trunks.feature_dim(network),
        branch=branch,
        dataset=dataset,
        folder=folder,
        card=card,
        notes=notes,
    )


def filled(
    trunk: nn.Module | Architecture,
    state: Mapping[str, Tensor],
    *,
    model_input: ModelInput,
    where: str,
    untrained: bool = False,
) -> nn.Module:
    """Fill a trunk with its state, which must be exactly that, and try its features.

    Args:
        trunk: Which of the zoo's trunks, or one built otherwise, with fresh weights.
        state: Its entries, by torchvision's names.
        model_input: What the model owns of preprocessing.
        where: What to call the weights in an error.
        untrained: Whether a network as it was initialised will do.

    Raises:
        CheckpointError: As `of_trunk`.
    """
    if isinstance(trunk, nn.Module):
        network, before = trunk, probe.features(trunk, model_input)
    else:
        network, before = trunks.unfilled(trunk), probe.untrained_features(trunk, model_input)
    reading.fill(network, state, where=where)
    probe.check_filled(network, state, where=where)
    probe.check(network, model_input, where=where, before=before, untrained=untrained)
    return network


def of_library(
    name: str,
    network: nn.Module,
    *,
    model_input: ModelInput,
    built: str,
    dataset: str | None = None,
    notes: tuple[str, ...],
) -> Model:
    """Make a model of a network that another library has built and filled.

    Args:
        name: What results should call it.
        network: The network, at its features.
        model_input: What the model owns of preprocessing.
        built: What tells it from other networks of the same entries.
        dataset: What it was trained on, where that is known.
        notes: What whoever reads its scores must know.

    Raises:
        CheckpointError: If its features are those of no trained network.
        UsageError: If it does not turn images into features of one width.
    """
    model = frozen(name, network, model_input=model_input, built=built, dataset=dataset, notes=notes)
    probe.check(model.network, model_input, where=name)
    return model


def frozen(
    name: str,
    network: nn.Module,
    *,
    model_input: ModelInput,
    feature_dim: int | None = None,
    built: str = "",
    branch: str = "",
    layer: str = "pool",
    dataset: str | None = None,
    folder: Path | None = None,
    card: CheckpointCard | None = None,
    notes: tuple[str, ...] = (),
) -> Model:
    """Freeze a network, and say of it what a model says.

    Args:
        name: What results should call it.
        network: Maps images to features; it is put into evaluation mode, and its parameters take no gradient more.
        model_input: What the model owns of preprocessing.
        feature_dim: Width of its features; None finds it out from a black image.
        built: What tells it from other networks of the same entries (`network_sha256`).
        branch: `teacher`, `student`, or empty where there is only one.
        layer: `pool` or `projection`.
        dataset: What it was trained on, where that is known.
        folder: Where results go, if it has a folder of its own.
        card: What its makers say of it.
        notes: What whoever reads its scores must know.

    Raises:
        UsageError: If the network does not turn images into features of one width.
    """
    network.eval().requires_grad_(requires_grad=False)
    return Model(
        name=name,
        network=network,
        input=model_input,
        feature_dim=width(network, model_input, name=name) if feature_dim is None else feature_dim,
        weights_sha256=network_sha256(network.state_dict(), built=built),
        branch=branch,
        layer=layer,
        dataset=dataset,
        folder=folder,
        card=card,
        notes=notes,
    )


def width(network: nn.Module, model_input: ModelInput, *, name: str) -> int:
    """Return the width of a network's features.

    Raises:
        UsageError: If black images do not go through it, or what comes out is not a row of numbers for each.
    """
    device = next((entry.device for entry in network.state_dict().values()), torch.device("cpu"))
    side = model_input.native_size
    images = torch.zeros(2, model_input.channels, side, side, device=device)
    shape = " x ".join(map(str, images.shape))
    try:
        with torch.inference_mode():
            features = network(images)
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError) as error:
        raise UsageError(
            f"{name} does not take images as it should: float32 of {shape} (images, channels, height, width) gave "
            f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.200}. Tell its channels by the length of "
            "mean and std, its size by the native size"
        ) from error
    if not isinstance(features, Tensor):
        raise UsageError(
            f"{name} gives a {type(features).__name__}, not features: a model returns one tensor, a row for each image"
        )
    if features.ndim != 2 or len(features) != 2 or not features.is_floating_point() or not features.shape[1]:
        raise UsageError(
            f"{name} gives {features.dtype} of shape {tuple(features.shape)} for 2 images; features are floating-point "
            "of shape (2, width): pool its maps or tokens first"
        )
    return features.shape[1]


def input_of(card: InputCard) -> ModelInput:
    """Return what a card's model owns of preprocessing."""
    return ModelInput(native_size=card.native_size, mean=card.mean, std=card.std)


def branch_of(there: Collection[AnyBranch], asked: Branch | None, *, name: str) -> AnyBranch:
    """Return the branch to open: the one that was asked for, or the only one.

    Args:
        there: The branches, the one judged first in front; `single` where there is one network.
        asked: None takes the first; `teacher` likewise, where there is one network.
        name: What to call the model in an error.

    Raises:
        UsageError: If a student is asked for and there is none.
    """
    for branch in there:
        if branch == asked:
            return branch
    if asked is None or (asked == "teacher" and len(there) == 1):
        return next(iter(there))
    raise UsageError(f"{name} holds one network, no teacher and student: leave --branch out")


def check_single(name: str, *, branch: Branch | None, layer: Layer) -> None:
    """Refuse what a model of one network and one layer cannot give.

    Raises:
        UsageError: If a student or a projection is asked for.
    """
    branch_of(("single",), branch, name=name)
    check_pool(name, layer)


def check_pool(name: str, layer: Layer) -> None:
    """Refuse a layer that a bare trunk does not have.

    Raises:
        UsageError: If a projection is asked for.
    """
    if layer != "pool":
        raise UsageError(f"{name} has no layer {layer!r}: it is a trunk, whose layer is 'pool'")

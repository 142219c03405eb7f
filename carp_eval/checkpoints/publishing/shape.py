"""Which trunk a network is: what it must be built as for its weights to mean the same again."""

from collections.abc import Iterator, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from carp_eval import seeds
from carp_eval.cards.checkpoint import Architecture
from carp_eval.cards.frozen import Frozen
from carp_eval.cards.recipe import TrunkCard
from carp_eval.data.images import ModelInput
from carp_eval.errors import CheckpointError
from carp_eval.models import trunks
from carp_eval.models.model import Model

IMAGES = 2
# Larger than the rounding of another memory layout, far smaller than any other network's features.
TOLERANCE = 1e-3


class TrunkShape(Frozen):
    """A trunk that this package can build.

    Attributes:
        architecture: As checkpoint and recipe cards name it.
        stem: `imagenet` is 7 x 7 with stride 2 and a max-pool; `small` is 3 x 3 without either.
        channels: Colour channels of the input.
    """

    architecture: Architecture | Literal["small"]
    stem: Literal["imagenet", "small"] = "imagenet"
    channels: Literal[1, 3] = 3

    @property
    def timm_name(self) -> str | None:
        """What timm calls the same network, its `in_chans` aside; None where it has none.

        timm's ResNets have a stem of 64 channels at stride 2, so neither the wide ones nor those of a small stem.
        """
        plain = self.stem == "imagenet" and self.architecture in (
            "resnet18",
            "resnet34",
            "resnet50",
            "resnet101",
        )
        return self.architecture if plain else None

    def build(self) -> nn.Module:
        """Build the trunk, with fresh weights."""
        if self.stem == "imagenet" and self.channels == 3 and self.architecture != "small":
            return trunks.released(self.architecture)
        return trunks.build(
            TrunkCard.model_validate(
                {"architecture": self.architecture, "stem": self.stem, "channels": self.channels}
            )
        )


def of(model: Model) -> TrunkShape:
    """Find the trunk that a model's network is.

    A network is told by its entries' names and shapes, and then by its features: what is built anew, filled with the
    model's weights, must give the model's features.

    Args:
        model: The model, opened at its trunk's output.

    Raises:
        CheckpointError: If it is no trunk that this package can build.
    """
    state = model.network.state_dict()
    shapes = _shapes(state)
    for shape in known():
        with torch.device("meta"):
            network = shape.build()
        if _shapes(network.state_dict()) == shapes:
            # Mapped, not copied: a wide network's weights need not be in memory twice.
            network.load_state_dict({name: tensor.cpu() for name, tensor in state.items()}, assign=True)
            _check_same(model, network.eval())
            return shape
    raise CheckpointError(
        f"{model.name} is no trunk that can be published: its {len(state)} entries are not those of "
        f"{', '.join(get_args(Architecture))} or the quickstart's small network, and whoever fetched it could not "
        "build it again"
    )


def known() -> Iterator[TrunkShape]:
    """Return every trunk that this package can build."""
    for channels in (1, 3):
        yield TrunkShape(architecture="small", stem="small", channels=channels)
    # Those of many channels take longest to lay out, and come after the others.
    for architecture in sorted(get_args(Architecture), key=lambda name: "w" in name):
        yield TrunkShape(architecture=architecture)
    trainable = get_args(TrunkCard.model_fields["architecture"].annotation)
    for architecture in trainable:
        for channels in (1, 3):
            if architecture == "small":
                continue
            yield TrunkShape(architecture=architecture, stem="small", channels=channels)
            if channels == 1:
                yield TrunkShape(architecture=architecture, channels=channels)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _check_same(model: Model, built: nn.Module) -> None:
    images = _probe(model.input)
    first = next(iter(model.network.parameters()), images)
    with torch.inference_mode():
        theirs = model.network(images.to(first.device)).cpu().float()
        ours = built(images)
    if theirs.shape != ours.shape or (theirs - ours).norm() > TOLERANCE * ours.norm():
        raise CheckpointError(
            f"{model.name} has the entries of a known trunk but gives other features than that trunk with its weights: "
            "it cannot be published, for nobody could build it again"
        )


def _probe(model_input: ModelInput) -> Tensor:
    side = model_input.native_size
    return torch.randn(IMAGES, model_input.channels, side, side, generator=seeds.generator(0, "publishing"))

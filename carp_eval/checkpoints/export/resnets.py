"""Which ResNet a trunk is, and its entries by torchvision's names: what most of the field's loaders take."""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models import resnet

from carp_eval.errors import UsageError
from carp_eval.models.model import Model
from carp_eval.models.wide import WideResNet50

DEPTHS = (18, 34, 50, 101, 152)
WIDTHS = (2, 4, 5)
# Counts batches in training; some files are without it.
COUNTER = "num_batches_tracked"


class ResNet(NamedTuple):
    """A ResNet by its entries.

    Attributes:
        depth: 18, 34, 50, 101 or 152.
        width: How many times as wide every channel is.
        entries: Its state, by torchvision's names, `fc` left out.
    """

    depth: int
    width: int
    entries: dict[str, Tensor]

    @property
    def name(self) -> str:
        """The architecture as cards spell it."""
        return f"resnet{self.depth}" + (f"w{self.width}" if self.width > 1 else "")


def resnet_of(model: Model, *, target: str, wide: bool = False) -> ResNet:
    """Find out which ResNet a model is.

    The entries tell it; that it also works as one, the features tell once the file is read back.

    Args:
        model: The model.
        target: What it is written for, for the error.
        wide: Whether the target knows ResNets of which every channel is wider.

    Raises:
        UsageError: If it is none, or one that the target does not know.
    """
    entries = {name: value.detach().cpu().contiguous() for name, value in model.network.state_dict().items()}
    shapes = _shapes(entries)
    for depth in DEPTHS:
        if shapes == _known(depth, 1):
            return ResNet(depth, 1, entries)
    for width in WIDTHS:
        if shapes == _known(50, width):
            if wide:
                return ResNet(50, width, entries)
            raise UsageError(
                f"{target} has no ResNet-50 whose every channel is {width} times as wide: its wide ResNets are wider "
                "in the middle of each block only. onnx, torch-export and detectron2 take it"
            )
    raise UsageError(
        f"{target} takes ResNets by torchvision's names, of 3 channels and with the usual stem (7 x 7, stride 2); "
        f"{model.name} is {_described(model, entries)}. onnx and torch-export take any model"
    )


def _described(model: Model, entries: dict[str, Tensor]) -> str:
    kind = f"a {type(model.network).__name__} of {len(entries)} entries"
    stem = entries.get("conv1.weight")
    if stem is not None and stem.ndim == 4 and "layer1.0.conv1.weight" in entries:
        _, channels, height, width = stem.shape
        return f"{kind}, whose stem takes {channels} channels by {height} x {width}"
    return kind


def _shapes(entries: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in entries.items() if not name.endswith(COUNTER)}


@cache
def _known(depth: int, width: int) -> dict[str, torch.Size]:
    # Shapes alone: nothing is allocated.
    with torch.device("meta"):
        if width > 1:
            return _shapes(WideResNet50(width).state_dict())
        network = bare(depth)
    return _shapes(network.state_dict())


def bare(depth: int) -> nn.Module:
    """Build torchvision's ResNet of a depth, with fresh weights and without its classifier."""
    network: resnet.ResNet = getattr(resnet, f"resnet{depth}")(weights=None)
    network.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    return network


def stored(entries: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return entries as they are stored: numbers that are counted stay whole."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in entries.items()}

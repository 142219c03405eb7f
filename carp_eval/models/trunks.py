"""Trunks: the networks whose features are judged, by architecture and stem."""

from typing import Any

import torch
from torch import nn

from carp_eval.cards.checkpoint import Architecture
from carp_eval.cards.recipe import TrunkCard
from carp_eval.models.small import SmallTrunk


def build(card: TrunkCard) -> nn.Module:
    """Build a trunk with fresh weights.

    The result maps images `[n, channels, height, width]` to features `[n, feature_dim(trunk)]`; a
    ResNet's entries bear torchvision's names, `fc` left out.
    """
    if card.architecture == "small":
        return SmallTrunk(channels=card.channels)
    # Parts are replaced by others of the same interface, which the annotations of torchvision do not foresee.
    network: Any = _resnet(card.architecture, zero_init_residual=card.zero_init_residual)
    width = network.conv1.out_channels
    if card.stem == "small":
        network.conv1 = nn.Conv2d(card.channels, width, kernel_size=3, padding=1, bias=False)
        network.maxpool = nn.Identity()
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    elif card.channels != 3:
        network.conv1 = nn.Conv2d(card.channels, width, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    return network


def released(architecture: Architecture, *, seed: int = 0) -> nn.Module:
    """Build the trunk of a released checkpoint, with fresh weights that depend on the seed alone.

    Its entries bear torchvision's names, `fc` left out.

    Args:
        architecture: `resnet50wN` has every channel of a ResNet-50 N times as wide, as SwAV's.
        seed: Of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _resnet(architecture)


def unfilled(architecture: Architecture) -> nn.Module:
    """Build the trunk of a released checkpoint for whoever fills all of it: its entries are what memory holds.

    Drawing weights that are overwritten takes longer than the rest, and a minute where the trunk is wide.
    """
    with torch.device("meta"):
        trunk = released(architecture)
    return trunk.to_empty(device="cpu")


def feature_dim(trunk: nn.Module) -> int:
    """Return the width of a trunk's features."""
    width = trunk.feature_dim
    assert isinstance(width, int)
    return width


def _resnet(architecture: str, *, zero_init_residual: bool = False) -> nn.Module:
    """Build a ResNet without its classifier; `resnet50wN` is N times as wide."""
    # Torchvision takes longer to import than all else that an evaluation on ready banks needs beside torch.
    from torchvision import models

    from carp_eval.models.wide import WideResNet50

    name, _, factor = architecture.partition("w")
    if factor:
        return WideResNet50(int(factor), zero_init_residual=zero_init_residual)
    builders = {
        "resnet18": models.resnet18,
        "resnet34": models.resnet34,
        "resnet50": models.resnet50,
        "resnet101": models.resnet101,
    }
    network: Any = builders[name](weights=None, zero_init_residual=zero_init_residual)
    network.feature_dim = network.fc.in_features
    network.fc = nn.Identity()
    return network


class Pixels(nn.Module):
    """The raw pixels as features: what any representation should beat."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Flatten each image."""
        return images.flatten(1)

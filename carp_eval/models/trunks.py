"""Trunks: the networks whose features are judged, by architecture and stem."""

from typing import Any

import torch
from torch import nn
from torchvision.models import resnet18, resnet50

from carp_eval.cards.recipe import TrunkCard
from carp_eval.models.small import SmallTrunk


def build(card: TrunkCard) -> nn.Module:
    """Build a trunk with fresh weights.

    The result maps images `[n, channels, height, width]` to features `[n, feature_dim(trunk)]`; a
    ResNet's entries bear torchvision's names, `fc` left out.
    """
    if card.architecture == "small":
        return SmallTrunk(channels=card.channels)
    make = {"resnet18": resnet18, "resnet50": resnet50}[card.architecture]
    # Parts are replaced by others of the same interface, which the annotations of torchvision do not foresee.
    network: Any = make(weights=None, zero_init_residual=card.zero_init_residual)
    width = network.conv1.out_channels
    if card.stem == "small":
        network.conv1 = nn.Conv2d(card.channels, width, kernel_size=3, padding=1, bias=False)
        network.maxpool = nn.Identity()
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    elif card.channels != 3:
        network.conv1 = nn.Conv2d(card.channels, width, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.feature_dim = network.fc.in_features
    network.fc = nn.Identity()
    return network


def feature_dim(trunk: nn.Module) -> int:
    """Return the width of a trunk's features."""
    width = trunk.feature_dim
    assert isinstance(width, int)
    return width


class Pixels(nn.Module):
    """The raw pixels as features: what any representation should beat."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Flatten each image."""
        return images.flatten(1)

"""Models to export whose every entry matters: normalisation has statistics and weights of its own."""

import torch
from torch import nn

from carp_eval.data.images import ModelInput
from carp_eval.models import trunks
from carp_eval.models.model import Model, weights_sha256

MEAN, STD = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)


def shaken(network, *, seed=0):
    """Give every normalisation statistics and weights that are told from those of any other."""
    chance = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for entry, low, high in (
                (module.weight, 0.5, 1.0),
                (module.bias, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
            ):
                entry.data = low + (high - low) * torch.rand(entry.shape, generator=chance)
    return network.eval().requires_grad_(requires_grad=False)


def model(architecture="resnet18", *, size=32):
    return of(shaken(trunks.released(architecture)), size=size, name=architecture)


def of(network, *, size=32, name="tiny", channels=3):
    with torch.inference_mode():
        width = network(torch.zeros(2, channels, size, size)).shape[1]
    return Model(
        name=name,
        network=network,
        input=ModelInput(native_size=size, mean=MEAN[:channels], std=STD[:channels]),
        feature_dim=width,
        weights_sha256=weights_sha256(network.state_dict()),
    )


class Tiny(nn.Module):
    """Two convolutions and a mean: what no library has by name."""

    def __init__(self, channels=3):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2)
        )

    def forward(self, images):
        return self.layers(images).mean(dim=(2, 3))


def tiny(channels=3):
    torch.manual_seed(0)
    return of(shaken(Tiny(channels)), channels=channels)


def images(count=5, *, size=32, channels=3):
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(7)) * 4 - 2


def features(model, some):
    with torch.inference_mode():
        return model.network(some)


def relative(found, wanted):
    return ((found - wanted).norm() / wanted.norm()).item()

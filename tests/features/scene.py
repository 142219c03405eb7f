"""A small split and a small network: the same ones in every process that asks."""

import hashlib
import time

import numpy as np
import torch
from PIL import Image
from torch import nn

from carp_eval.data.images import Images, ModelInput
from carp_eval.data.preprocessing import Preprocessing
from carp_eval.errors import BadImageError
from carp_eval.features.extraction.running import extract
from carp_eval.models.model import Model, weights_sha256

SIDE = 8
DIM = 5
PREPROCESSING = Preprocessing(resize=SIDE, crop=SIDE, interpolation="bilinear", mean=(0.5,), std=(0.25,))


class Noise(Images):
    """Random grey images with random labels; those of the numbers in `bad` cannot be read."""

    def __init__(self, count=50, *, seed=0, bad=()):
        random = np.random.default_rng(seed)
        self.name, self.split = "noise", "train"
        self.labels = random.integers(0, 3, count)
        self.class_names = ("a", "b", "c")
        self.content = random.integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8)
        self.bad = frozenset(bad)

    def image(self, index):
        if index in self.bad:
            raise BadImageError(f"{self.key(index)} is not an image")
        return Image.fromarray(self.content[index])

    def key(self, index):
        return f"größe/{index:03d}.png"

    def hash_manifest(self):
        return hashlib.sha256(self.content.tobytes() + self.labels.tobytes()).hexdigest()


class Net(nn.Module):
    """A convolution, a BatchNorm and a mean; counts the images it has seen, and can be slow."""

    def __init__(self, *, delay=0.0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(1, DIM, 3), nn.BatchNorm2d(DIM), nn.ReLU())
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        self.delay = delay
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        time.sleep(self.delay)
        return self.layers(images).mean(dim=(2, 3))


def model(network=None):
    network = Net().eval() if network is None else network
    return Model(
        name="net",
        network=network,
        input=ModelInput(native_size=SIDE, mean=(0.5,), std=(0.25,)),
        feature_dim=DIM,
        weights_sha256=weights_sha256(network.state_dict()),
    )


def expected(images, number):
    """What the network gives for one image, by plain arithmetic in float64."""
    pixels = (images.content[number].astype(np.float64) / 255 - 0.5) / 0.25
    conv, norm, _ = Net().layers
    weight, bias = conv.weight.detach().double().numpy(), conv.bias.detach().double().numpy()
    scale = norm.weight.detach().double().numpy() / np.sqrt(1 + norm.eps)
    values = np.zeros(DIM)
    for channel in range(DIM):
        for y in range(SIDE - 2):
            for x in range(SIDE - 2):
                sum_ = (weight[channel, 0] * pixels[y : y + 3, x : x + 3]).sum() + bias[channel]
                values[channel] += max(sum_ * scale[channel] + norm.bias[channel].item(), 0)
    return values / (SIDE - 2) ** 2


def take(home, images=None, network=None, **options):
    """Extract with small batches and shards: seven of them, the last of two images."""
    options = {"batch_size": 4, "shard_rows": 8, "num_workers": 0, "device": "cpu"} | options
    return extract(model(network), images or Noise(), PREPROCESSING, bank_home=home, **options)

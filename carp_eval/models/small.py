"""The quickstart's network: small enough to be trained in two minutes on two cores."""

from jaxtyping import Float
from torch import Tensor, nn

WIDTHS = (32, 64, 128)


class SmallTrunk(nn.Sequential):
    """Four 3 x 3 convolutions, each with BatchNorm and ReLU, then the mean over all places.

    Every convolution but the first halves the image's side: 28 -> 28 -> 14 -> 7 -> 4.

    Attributes:
        feature_dim: Width of the features.
    """

    def __init__(self, channels: int, feature_dim: int = 256) -> None:
        """Build the network, with PyTorch's initialisation.

        Args:
            channels: Colour channels of the input.
            feature_dim: Width of the features.
        """
        widths = (channels, *WIDTHS, feature_dim)
        layers: list[nn.Module] = []
        for number, (wide_in, wide_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            stride = 1 if number == 0 else 2
            layers += [
                nn.Conv2d(wide_in, wide_out, kernel_size=3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(wide_out),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.feature_dim = feature_dim

    def forward(self, input: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image feature"]:
        """Return the features of each image."""
        return super().forward(input)

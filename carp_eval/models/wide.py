"""Wide ResNets, as those of SwAV: every channel of a ResNet-50, the stem's included, several times as many.

Not torchvision's `wide_resnet50_2`, where only the middle convolution of a block is wider.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

BLOCKS = (3, 4, 6, 3)
STEM = 64


class WideResNet50(nn.Module):
    """A ResNet-50 whose channels are all multiplied; its entries bear torchvision's names, `fc` left out.

    Attributes:
        feature_dim: Width of the features: 2,048 times the factor.
    """

    def __init__(self, factor: int, *, zero_init_residual: bool = False) -> None:
        """Build the network, initialised as torchvision's ResNets are.

        Args:
            factor: By how much the channels are multiplied; 1 is a ResNet-50.
            zero_init_residual: Whether each residual branch starts at zero.
        """
        super().__init__()
        width = STEM * factor
        # SwAV's code pads by 1 and then by 2, which is the padding of 3 here.
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        stages: list[nn.Sequential] = []
        inner = width
        for number, blocks in enumerate(BLOCKS):
            planes = width * 2**number
            stages.append(_stage(inner, planes, blocks=blocks, stride=1 if number == 0 else 2))
            inner = planes * Bottleneck.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.feature_dim = inner
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, Bottleneck):
                nn.init.zeros_(module.get_parameter("bn3.weight"))

    def forward(self, images: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image feature"]:
        """Return the features of each image: the last map's mean over all places."""
        maps = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            maps = stage(maps)
        return self.avgpool(maps).flatten(1)


def _stage(inner: int, planes: int, *, blocks: int, stride: int) -> nn.Sequential:
    outer = planes * Bottleneck.expansion
    shortcut = nn.Sequential(
        nn.Conv2d(inner, outer, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(outer)
    )
    first = Bottleneck(inner, planes, stride, shortcut)
    return nn.Sequential(first, *(Bottleneck(outer, planes) for _ in range(blocks - 1)))

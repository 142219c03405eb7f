"""A ResNet written anew with detectron2's names and layout, and its way of finding weights: what an export must fit."""

import torch
import torch.nn.functional as F
from torch import nn


class FrozenNorm(nn.Module):
    """Normalisation by four buffers, as detectron2's FrozenBN."""

    def __init__(self, channels):
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x):
        scale = self.weight / (self.running_var + 1e-5).sqrt()
        return x * scale[None, :, None, None] + (self.bias - self.running_mean * scale)[None, :, None, None]


class Conv(nn.Conv2d):
    """A convolution that owns its normalisation."""

    def __init__(self, inner, outer, kernel, *, stride=1):
        super().__init__(inner, outer, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.norm = FrozenNorm(outer)

    def forward(self, x):
        return self.norm(super().forward(x))


class Block(nn.Module):
    """Convolutions beside a shortcut; the second of three has the stride (STRIDE_IN_1X1 False), the first of two."""

    def __init__(self, inner, middle, outer, *, stride, deep):
        super().__init__()
        self.deep = deep
        if deep:
            self.conv1 = Conv(inner, middle, 1)
            self.conv2 = Conv(middle, middle, 3, stride=stride)
            self.conv3 = Conv(middle, outer, 1)
        else:
            self.conv1 = Conv(inner, outer, 3, stride=stride)
            self.conv2 = Conv(outer, outer, 3)
        self.shortcut = Conv(inner, outer, 1, stride=stride) if inner != outer or stride > 1 else None

    def forward(self, x):
        beside = x if self.shortcut is None else self.shortcut(x)
        out = self.conv2(F.relu(self.conv1(x)))
        if self.deep:
            out = self.conv3(F.relu(out))
        return F.relu(out + beside)


class Stem(nn.Module):
    def __init__(self, stem):
        super().__init__()
        self.conv1 = Conv(3, stem, 7, stride=2)

    def forward(self, x):
        return F.max_pool2d(F.relu(self.conv1(x)), kernel_size=3, stride=2, padding=1)


def stages(depth, stem):
    """Name the four stages and give each its blocks."""
    blocks = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]
    deep = depth >= 50
    inner, built = stem, {}
    for number, count in enumerate(blocks):
        middle = stem * 2**number
        outer = middle * (4 if deep else 1)
        built[f"res{number + 2}"] = nn.Sequential(
            *(
                Block(
                    inner if place == 0 else outer,
                    middle,
                    outer,
                    stride=2 if place == 0 and number else 1,
                    deep=deep,
                )
                for place in range(count)
            )
        )
        inner = outer
    return built


class Fpn(nn.Module):
    """All of the trunk below a feature pyramid, whose lateral convolutions the weights do not have."""

    def __init__(self, depth, *, stem=64):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.bottom_up = nn.Module()
        self.backbone.bottom_up.stem = Stem(stem)
        for name, stage in stages(depth, stem).items():
            self.backbone.bottom_up.add_module(name, stage)
        self.backbone.fpn_lateral2 = nn.Conv2d(256, 256, 1)

    def forward(self, x):
        trunk = self.backbone.bottom_up
        return trunk.res5(trunk.res4(trunk.res3(trunk.res2(trunk.stem(x))))).mean(dim=(2, 3))


class C4(nn.Module):
    """The trunk to res4, and res5 as the heads' own: with one more normalisation behind, as in SwAV's set-up."""

    def __init__(self, depth, *, stem=64):
        super().__init__()
        self.backbone, self.roi_heads = nn.Module(), nn.Module()
        self.backbone.stem = Stem(stem)
        for name, stage in stages(depth, stem).items():
            (self.roi_heads if name == "res5" else self.backbone).add_module(name, stage)
        self.roi_heads.res5.add_module("norm", FrozenNorm(8 * stem * (4 if depth >= 50 else 1)))

    def forward(self, x):
        trunk = self.backbone
        x = self.roi_heads.res5[:-1](trunk.res4(trunk.res3(trunk.res2(trunk.stem(x)))))
        return x.mean(dim=(2, 3))


def load(network, weights):
    """Give each entry of a network the weight whose name is the longest end of its own; return what was not used."""
    used = set()
    for name, entry in network.state_dict().items():
        fitting = [key for key in weights if name == key or name.endswith(f".{key}")]
        if fitting:
            key = max(fitting, key=len)
            assert weights[key].shape == entry.shape, (name, key)
            assert key not in used, f"{key} fits two entries"
            used.add(key)
            entry.copy_(weights[key])
    return set(weights) - used

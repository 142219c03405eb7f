"""What the entries of each ResNet are called, and of which shape they are."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import get_args

import torch
from torch import Tensor

from carp_eval.cards.checkpoint import Architecture
from carp_eval.models import trunks

ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
# Each ResNet has these, whatever its depth; the last as `nn.Sequential` numbers it. One may be missing.
_MARKS = (*(f"layer{stage}.0.conv1.weight" for stage in (1, 2, 3, 4)), "4.0.conv1.weight")
_BLOCKS: dict[tuple[str, tuple[int, ...]], str] = {
    ("basic", (2, 2, 2, 2)): "resnet18",
    ("basic", (3, 4, 6, 3)): "resnet34",
    ("bottleneck", (3, 4, 6, 3)): "resnet50",
    ("bottleneck", (3, 4, 23, 3)): "resnet101",
}


@cache
def shapes(architecture: Architecture) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of each entry of a trunk, by torchvision's names."""
    with torch.device("meta"):
        trunk = trunks.released(architecture)
    return {name: tuple(value.shape) for name, value in trunk.state_dict().items()}


def feature_dim(architecture: Architecture) -> int:
    """Return the width of a trunk's features."""
    with torch.device("meta"):
        return trunks.feature_dim(trunks.released(architecture))


def prefixes(name: str) -> Iterator[str]:
    """Return what comes before a ResNet's own names, if a name is one that each ResNet has."""
    for mark in _MARKS:
        if name == mark or name.endswith(f".{mark}"):
            yield name.removesuffix(mark)


def architecture_of(state: Mapping[str, Tensor]) -> Architecture | None:
    """Tell a trunk's architecture from its blocks and its width; None if it is none of ours."""
    stages = [len({match[1] for name in state if (match := re.match(rf"layer{stage}\.(\d+)\.", name))})
              for stage in (1, 2, 3, 4)]  # fmt: skip
    block = "bottleneck" if "layer1.0.conv3.weight" in state else "basic"
    base = _BLOCKS.get((block, tuple(stages)))
    first = state.get("layer1.0.conv1.weight")
    if base is None or first is None or first.ndim != 4:
        return None
    width = first.shape[0] // 64
    name = base if width == 1 else f"{base}w{width}"
    return next((known for known in ARCHITECTURES if known == name), None)


def belongs(name: str, trunk: Mapping[str, object]) -> bool:
    """Tell whether a name is one of a trunk's, or one that a numbered trunk has for it."""
    return name in trunk or bool(re.fullmatch(r"1\.\w+|0\.weight|[4-7]\.\d+\.\w+(\.\d+)?\.\w+", name))


def fits(state: Mapping[str, Tensor], architecture: Architecture) -> bool:
    """Tell whether all entries of a trunk are there in their shapes, and none that its parts do not have.

    What lies beside the parts, a classifier, may be there.
    """
    wanted = shapes(architecture)
    whole = all(name in state and tuple(state[name].shape) == shape for name, shape in wanted.items())
    return whole and not strays(state, architecture)


def strays(state: Mapping[str, Tensor], architecture: Architecture) -> list[str]:
    """Return entries of a trunk's parts that the trunk does not have, as of a network built otherwise."""
    wanted = shapes(architecture)
    parts = {name.partition(".")[0] for name in wanted}
    return [name for name in state if name.partition(".")[0] in parts and name not in wanted]


def nearest(state: Mapping[str, Tensor]) -> Architecture:
    """Return the trunk that a state has most in common with."""
    known = architecture_of(state)
    return known or max(ARCHITECTURES, key=lambda each: _common(state, each))


def overlap(state: Mapping[str, Tensor]) -> int:
    """Count the entries that a state has in common with the nearest trunk."""
    return _common(state, nearest(state))


def difference(state: Mapping[str, Tensor], *, most: int = 5) -> list[str]:
    """Say what keeps a state from being the nearest trunk."""
    architecture = nearest(state)
    wanted = shapes(architecture)
    missing = [name for name in wanted if name not in state]
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {wanted[name]}"
        for name in wanted
        if name in state and tuple(state[name].shape) != wanted[name]
    ]
    unexpected = strays(state, architecture)
    told = [f"{architecture}, of whose {len(wanted)} entries {len(wanted) - len(missing)} are there"]
    for kind, names in (("missing", missing), ("unexpected", unexpected), ("wrong shape", wrong)):
        if names:
            rest = f" and {len(names) - most} more" if len(names) > most else ""
            told.append(f"{kind}: {', '.join(names[:most])}{rest}")
    return told


def _common(state: Mapping[str, Tensor], architecture: Architecture) -> int:
    wanted = shapes(architecture)
    # An entry that is nearly right counts half.
    return sum(
        2 if tuple(state[name].shape) == shape else 1 for name, shape in wanted.items() if name in state
    )

"""For detectron2: its names for a ResNet, in the `.pth` that its `DetectionCheckpointer` reads.

The weights stand in the dictionary `model`; `matching_heuristics` has detectron2 find each by the end of its name, be
the trunk at `backbone.`, at `backbone.bottom_up.` (FPN) or partly in `roi_heads.` (C4). Its `.pkl` says no more, and
runs code when it is read.
"""

import io
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from carp_eval.checkpoints import reading
from carp_eval.checkpoints.export import resnets
from carp_eval.checkpoints.export.form import Settings, Written, told_of
from carp_eval.checkpoints.export.resnets import ResNet
from carp_eval.models.model import Model
from carp_eval.models.wide import WideResNet50

_ENTRY = re.compile(
    r"(?:layer(?P<stage>[1-4])\.(?P<block>\d+)\.)?(?P<part>\w+?)(?P<number>\d?)\.(?P<rest>.+)"
)


def write(model: Model, settings: Settings, path: Path) -> Written:
    """Bring a ResNet to detectron2's names.

    Raises:
        UsageError: If it is no ResNet that detectron2 can build.
    """
    found = resnets.resnet_of(model, target="detectron2", wide=True)
    entries = resnets.stored(found.entries, settings.torch_dtype)
    # Frozen normalisation has no counter; where it is trained on, detectron2 starts its own.
    renamed = {called(name): value for name, value in entries.items() if not name.endswith(resnets.COUNTER)}
    content = {
        "model": renamed,
        "matching_heuristics": True,
        "__author__": "carp-eval",
        "told": told_of(model),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return Written(
        buffer.getvalue(),
        partial(_features, found=found),
        {"architecture": found.name, "entries": len(renamed)},
        _config(found, model, path),
    )


def called(name: str) -> str:
    """Return what detectron2 calls an entry that torchvision calls `name`."""
    match = _ENTRY.fullmatch(name)
    assert match is not None
    stage, block, part, number, rest = match.group("stage", "block", "part", "number", "rest")
    where = "stem" if stage is None else f"res{int(stage) + 1}.{block}"
    convolution, norm = f"conv{number}", part == "bn"
    if part == "downsample":
        place, _, rest = rest.partition(".")
        convolution, norm = "shortcut", place == "1"
    return f"{where}.{convolution}{'.norm' if norm else ''}.{rest}"


def _config(found: ResNet, model: Model, path: Path) -> str:
    stem = found.entries["conv1.weight"].shape[0]
    mean, std = (
        ", ".join(f"{255 * value:.7g}" for value in values) for values in (model.input.mean, model.input.std)
    )
    widths = ""
    if found.depth < 50:
        widths = "\n    RES2_OUT_CHANNELS: 64"
    elif found.width > 1:
        widths = (
            f"\n    STEM_OUT_CHANNELS: {stem}\n    WIDTH_PER_GROUP: {stem}\n    RES2_OUT_CHANNELS: {4 * stem}"
        )
    return (
        f"MODEL:\n  WEIGHTS: {path}\n  PIXEL_MEAN: [{mean}]\n  PIXEL_STD: [{std}]\n"
        f"  RESNETS:\n    DEPTH: {found.depth}\n    STRIDE_IN_1X1: False{widths}\nINPUT:\n  FORMAT: RGB"
    )


def _features(
    path: Path, images: Float[Tensor, "image channel height width"], *, found: ResNet
) -> Float[Tensor, "image feature"]:
    network = WideResNet50(found.width) if found.width > 1 else resnets.bare(found.depth)
    weights: dict[str, Any] = reading.read(path)["model"]
    state = {
        name: value if name.endswith(resnets.COUNTER) else weights.pop(called(name))
        for name, value in network.state_dict().items()
    }
    reading.fill(network, state | weights, where=str(path))
    with torch.inference_mode():
        return network.eval()(images)

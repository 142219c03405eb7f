"""For timm: a file that `timm.create_model(name, num_classes=0, checkpoint_path=FILE)` loads."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from carp_eval.checkpoints.export import resnets, state_files
from carp_eval.checkpoints.export.form import Settings, Written, told_of
from carp_eval.models.model import Model


def write(model: Model, settings: Settings, path: Path) -> Written:
    """Bring a ResNet to timm's form, whose names are torchvision's.

    Raises:
        UsageError: If it is none that timm has.
    """
    found = resnets.resnet_of(model, target="timm")
    entries = resnets.stored(found.entries, settings.torch_dtype)
    return Written(
        state_files.encode(entries, told_of(model), path),
        partial(_features, name=found.name),
        {"architecture": found.name, "entries": len(entries)},
        f"network = timm.create_model({found.name!r}, num_classes=0, checkpoint_path={str(path)!r})",
    )


def _features(
    path: Path, images: Float[Tensor, "image channel height width"], *, name: str
) -> Float[Tensor, "image feature"]:
    import timm

    network: Any = timm.create_model(name, num_classes=0, checkpoint_path=str(path))
    with torch.inference_mode():
        return network.eval()(images)

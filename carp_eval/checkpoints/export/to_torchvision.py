"""For torchvision: a state that `resnetN().load_state_dict(state, strict=False)` takes, `fc` alone missing."""

from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from carp_eval.checkpoints.export import resnets, state_files
from carp_eval.checkpoints.export.form import Settings, Written, told_of
from carp_eval.errors import CheckpointError
from carp_eval.models.model import Model


def write(model: Model, settings: Settings, path: Path) -> Written:
    """Bring a ResNet to torchvision's form.

    Raises:
        UsageError: If it is none that torchvision has.
    """
    found = resnets.resnet_of(model, target="torchvision")
    entries = resnets.stored(found.entries, settings.torch_dtype)
    read = (
        f"safetensors.torch.load_file({str(path)!r})"
        if path.suffix == state_files.SAFETENSORS
        else f"torch.load({str(path)!r}, weights_only=True)"
    )
    return Written(
        state_files.encode(entries, told_of(model), path),
        partial(_features, depth=found.depth),
        {"architecture": found.name, "entries": len(entries)},
        f"network = torchvision.models.{found.name}()\nnetwork.load_state_dict({read}, strict=False)  # fc stays fresh",
    )


def _features(
    path: Path, images: Float[Tensor, "image channel height width"], *, depth: int
) -> Float[Tensor, "image feature"]:
    import torchvision

    network = getattr(torchvision.models, f"resnet{depth}")()
    outcome = network.load_state_dict(state_files.decode(path), strict=False)
    # Files of old have no counters, which torch leaves as they are.
    missing = [name for name in outcome.missing_keys if not name.endswith(resnets.COUNTER)]
    if missing != ["fc.weight", "fc.bias"] or outcome.unexpected_keys:
        raise CheckpointError(
            f"torchvision misses {', '.join(missing)} in {path} and does not expect "
            f"{', '.join(outcome.unexpected_keys) or 'nothing'}; only fc should be missing"
        )
    network.fc = torch.nn.Identity()
    with torch.inference_mode():
        return network.eval()(images)

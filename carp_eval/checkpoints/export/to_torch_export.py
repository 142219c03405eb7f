"""For PyTorch without the network's code: a program of `torch.export`, in a `.pt2`."""

import copy
import io
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from carp_eval.checkpoints.export.form import Settings, Written, told_of
from carp_eval.models.model import Model

# The file inside that tells of the model.
TOLD = "carp.json"


def write(model: Model, settings: Settings, path: Path) -> Written:
    """Trace a model to a program.

    Raises:
        RuntimeError: If torch cannot trace it.
    """
    traced = to_trace(model, settings)
    program = torch.export.export(traced.network, (traced.example,), dynamic_shapes=traced.dynamic_shapes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={TOLD: json.dumps(told_of(model))})
    return Written(
        buffer.getvalue(),
        partial(_features, dtype=settings.torch_dtype),
        {"torch": torch.__version__, "batch": settings.batch or "any"},
        f"network = torch.export.load({str(path)!r}).module()",
    )


class ToTrace(NamedTuple):
    """What torch traces a network with.

    Attributes:
        network: A copy, in the type that is asked for.
        example: Images.
        dynamic_shapes: What of their shape is left open.
    """

    network: nn.Module
    example: Float[Tensor, "image channel height width"]
    dynamic_shapes: Any


def to_trace(model: Model, settings: Settings) -> ToTrace:
    """Make ready to trace a model, its batch open unless the settings fix it."""
    network = copy.deepcopy(model.network).cpu().eval().to(settings.torch_dtype)
    side = settings.image_size
    # torch takes a dimension of 1 for a constant: what is left open needs another example.
    shape = (settings.batch or 2, model.input.channels, side, side)
    example = torch.zeros(shape, dtype=settings.torch_dtype)
    return ToTrace(network, example, None if settings.batch else ({0: torch.export.Dim("batch")},))


def _features(
    path: Path, images: Float[Tensor, "image channel height width"], *, dtype: torch.dtype
) -> Float[Tensor, "image feature"]:
    network: Any = torch.export.load(path).module()
    with torch.inference_mode():
        return network(images.to(dtype)).float()

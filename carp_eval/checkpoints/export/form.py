"""The form that a model takes for a target: its bytes, and how those give features again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from carp_eval.models.model import Model

Dtype = Literal["float32", "float16"]


@dataclass(frozen=True)
class Settings:
    """How a model is written.

    Attributes:
        image_size: Side of the images that it is compared on and, where a target fixes it, takes.
        batch: Images in a batch, where a target may fix that; None leaves it open.
        opset: ONNX's; None is `onnx_graph.OPSET`.
        dtype: How weights are stored.
    """

    image_size: int
    batch: int | None = None
    opset: int | None = None
    dtype: Dtype = "float32"

    @property
    def torch_dtype(self) -> torch.dtype:
        """The same for torch."""
        return {"float32": torch.float32, "float16": torch.float16}[self.dtype]


# Of a file that was written, the features of images, by the library that the file is for.
Features = Callable[[Path, Float[Tensor, "image channel height width"]], Float[Tensor, "image feature"]]


@dataclass(frozen=True)
class Written:
    """A model in the form of a target, not on the disk yet.

    Attributes:
        content: The file.
        features: Reads such a file back.
        told: What whoever loads it needs to know, a value for each key.
        loading: Lines that load it.
    """

    content: bytes
    features: Features
    told: Mapping[str, Any]
    loading: str


def told_of(model: Model) -> dict[str, str]:
    """Return what any file should say of the model it was made of, as text."""
    return {
        "model": model.name,
        "branch": model.branch,
        "weights_sha256": model.weights_sha256,
        "mean": " ".join(f"{value:.6g}" for value in model.input.mean),
        "std": " ".join(f"{value:.6g}" for value in model.input.std),
        "size": str(model.input.native_size),
    }

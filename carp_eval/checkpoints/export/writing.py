"""The one function that writes a model for another library, reads it back and compares features."""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from carp_eval import files
from carp_eval.checkpoints.export import to_detectron2, to_onnx, to_timm, to_torch_export, to_torchvision
from carp_eval.checkpoints.export.form import Dtype, Settings, Written
from carp_eval.checkpoints.export.targets import check
from carp_eval.errors import CheckpointError
from carp_eval.models.model import Model

# Brings a model to the form of a target, for a file of that path.
Write = Callable[[Model, Settings, Path], Written]

WRITERS: dict[str, Write] = {
    "torchvision": to_torchvision.write,
    "timm": to_timm.write,
    "onnx": to_onnx.write,
    "torch-export": to_torch_export.write,
    "detectron2": to_detectron2.write,
}
# By how much the largest feature may be off, as a share of the largest there is: beyond, it is another network.
TOLERANCE: dict[Dtype, float] = {"float32": 1e-4, "float16": 2e-2}
# A batch that is left open is tried with one that it was not traced with.
COMPARED = 3


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: The file.
        target: What it is for.
        bytes: Its size.
        sha256: Hash of the file.
        weights_sha256: Hash of the weights, as in results.
        dtype: How they are stored.
        compared_on: The images that features were compared on: `3 x 3 x 224 x 224`.
        relative_difference: The largest difference of a feature read back, as a share of the largest feature.
        mean: What the model subtracts from images in [0, 1], by channel.
        std: What it then divides by.
        loading: Lines that load the file.
        told: What else whoever loads it needs to know.
    """

    path: Path
    target: str
    bytes: int
    sha256: str
    weights_sha256: str
    dtype: Dtype
    compared_on: str
    relative_difference: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    loading: str
    told: dict[str, Any] = field(default_factory=dict[str, Any])


def export(
    model: Model,
    target: str,
    path: Path,
    *,
    image_size: int | None = None,
    batch: int | None = None,
    opset: int | None = None,
    dtype: Dtype = "float32",
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write a model's network for another library, in one file that was read back by that library and compared.

    Args:
        model: The model.
        target: What it is for, by its name in `targets.TARGETS`.
        path: The file; it is there whole, and found to give the model's features, or not at all.
        image_size: Side of the images that features are compared on, and that a traced network takes; None is the
            model's own.
        batch: Images in a batch of a traced network; None leaves it open.
        opset: ONNX's; None is `to_onnx.OPSET`.
        dtype: How weights are stored; a traced network computes in it.
        force: Whether a file that is there may be replaced.
        progress: Is told of steps done, and of how many.

    Raises:
        UsageError: If the model or an option does not fit the target, or the file is there (see `targets.check`).
        CheckpointError: If the model cannot be traced, or the file does not give its features.
        StorageError: If the disk is full, read-only or closed to us.
    """
    check(target, path, force=force, batch=batch, opset=opset)
    settings = Settings(image_size or model.input.native_size, batch=batch, opset=opset, dtype=dtype)
    tell = progress or (lambda _done, _total: None)
    tell(0, 2)
    images = _images(model, settings)
    with torch.inference_mode():
        wanted = copy.deepcopy(model.network).cpu().eval()(images).float()
    written = _written(model, target, settings, path)
    tell(1, 2)
    with files.replacing(path) as beside, tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        # Under its own name: readers go by the suffix.
        trial = Path(folder) / path.name
        trial.write_bytes(written.content)
        difference = _difference(written.features(trial, images), wanted)
        if not difference <= TOLERANCE[dtype]:
            raise CheckpointError(
                f"{path} was not written: read back as {target} would, it gives other features than {model.name}: "
                f"off by {difference:.1e} of the largest, where at most {TOLERANCE[dtype]:g} was expected. "
                f"The network has {target}'s entries, but works otherwise"
            )
        sha256, size = files.sha256(trial), trial.stat().st_size
        trial.replace(beside)
    tell(2, 2)
    return Exported(
        path=path,
        target=target,
        bytes=size,
        sha256=sha256,
        weights_sha256=model.weights_sha256,
        dtype=dtype,
        compared_on=" x ".join(map(str, images.shape)),
        relative_difference=difference,
        mean=model.input.mean,
        std=model.input.std,
        loading=written.loading,
        told=dict(written.told),
    )


def _written(model: Model, target: str, settings: Settings, path: Path) -> Written:
    try:
        return WRITERS[target](model, settings, path)
    except (RuntimeError, ValueError, TypeError, AttributeError, NotImplementedError) as error:
        # What tracing raises on what it cannot follow, which is much.
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(
            f"{model.name} cannot be brought to {target} with images of {settings.image_size} x {settings.image_size}, "
            f"{settings.dtype}: {reason}"
        ) from error


def _images(model: Model, settings: Settings) -> Float[Tensor, "image channel height width"]:
    """Make noise, as normalised images have it: the same for every export."""
    side = settings.image_size
    chance = torch.Generator().manual_seed(0)
    return torch.randn(settings.batch or COMPARED, model.input.channels, side, side, generator=chance)


def _difference(found: Float[Tensor, "image feature"], wanted: Float[Tensor, "image feature"]) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    return ((found - wanted).abs().max() / wanted.abs().max()).item()

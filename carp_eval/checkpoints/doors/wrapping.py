"""Any network from Python, as a model."""

import copy
import hashlib
import inspect
from collections.abc import Sequence

from torch import nn

from carp_eval.checkpoints import assembling
from carp_eval.data.images import ModelInput
from carp_eval.errors import UsageError
from carp_eval.models.model import Model

# Of these the version's number tells the code; of all others the code itself must.
_LIBRARIES = frozenset(("carp_eval", "timm", "torch", "torchvision", "transformers"))


def wrap(
    module: nn.Module,
    *,
    name: str,
    native_size: int = assembling.IMAGENET.native_size,
    mean: Sequence[float] = assembling.IMAGENET.mean,
    std: Sequence[float] = assembling.IMAGENET.std,
    feature_dim: int | None = None,
    dataset: str | None = None,
) -> Model:
    """Make a model of any network that turns images into features.

    The network is copied as it is now, on its device: the model's copy is put into evaluation mode and frozen, and the
    caller's may be trained on without changing what the model's hash says. What its code reads from outside of its
    entries, its own attributes' printed form and its classes' source, no hash knows: give a network that computes
    something else another set of entries or another class.

    Args:
        module: Maps float images `[n, channels, height, width]` to features `[n, feature_dim]`.
        name: What results should call it.
        native_size: Side of the square images it was trained on, in pixels.
        mean: Subtracted from each channel of values in [0, 1]; a value for each of 1 or 3 channels.
        std: Divided by, after that.
        feature_dim: Width of its features; None finds it out.
        dataset: The data set it was trained on, where `-d` would find it.

    Raises:
        UsageError: If it cannot be copied, or what comes out is not a row of numbers for each image.
    """
    if len(mean) != len(std) or len(mean) not in (1, 3) or min(std) <= 0 or native_size < 1:
        raise UsageError(
            f"mean and std need a value for each of 1 or 3 channels, std and native_size above zero; got mean "
            f"{tuple(mean)}, std {tuple(std)}, native_size {native_size}"
        )
    try:
        network = copy.deepcopy(module)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{name} cannot be copied ({str(error).partition(chr(10))[0]}); of a network that torch wraps for several "
            "devices, give the one inside (.module)"
        ) from error
    network.eval()
    model_input = ModelInput(native_size, tuple(map(float, mean)), tuple(map(float, std)))
    found = assembling.width(network, model_input, name=name)
    if feature_dim is not None and feature_dim != found:
        raise UsageError(f"{name} gives features of width {found}; feature_dim says {feature_dim}")
    return assembling.frozen(
        name,
        network,
        model_input=model_input,
        feature_dim=found,
        built=_built(network),
        dataset=dataset,
        notes=(f"a {type(module).__qualname__} of Python",),
    )


def _built(network: nn.Module) -> str:
    """Say what a network is built of: its parts as they print themselves, and the source of those of no library."""
    parts = [repr(network)]
    for kind in sorted({type(part) for part in network.modules()}, key=lambda kind: kind.__qualname__):
        parts.append(kind.__qualname__)
        if kind.__module__.partition(".")[0] not in _LIBRARIES:
            parts.append(_code(kind))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _code(kind: type[nn.Module]) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        # Typed into an interpreter: what it was compiled to is all there is.
        code = getattr(kind.forward, "__code__", None)
        return f"{code.co_code.hex()} {code.co_names} {code.co_consts}" if code else ""

"""Models of torchvision, their classifier taken off."""

from pathlib import Path
from typing import Any, get_args
from urllib.error import URLError
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn

from carp_eval import files
from carp_eval.cards.checkpoint import Architecture, EntriesCard
from carp_eval.checkpoints import assembling, entries, reading
from carp_eval.checkpoints.assembling import Branch, Layer
from carp_eval.data.images import ModelInput
from carp_eval.errors import CheckpointError, UnknownNameError, UsageError
from carp_eval.models.model import Model

_TRUNKS: dict[str, Architecture] = {name: name for name in get_args(Architecture)}


def opened(name: str, what: str, *, branch: Branch | None, layer: Layer) -> Model:
    """Open a classifier of torchvision at what goes into its last linear layer.

    Args:
        name: What results should call it.
        what: `resnet50`, or `resnet50/IMAGENET1K_V1` for other weights than torchvision's newest.
        branch: `student` is an error: there is one network.
        layer: `projection` is one, too.

    Raises:
        UnknownNameError: If torchvision has no such model or weights.
        CheckpointError: If the weights cannot be had, or are damaged.
        UsageError: If the model does not end in a linear layer, or has no such branch or layer.
    """
    assembling.check_single(name, branch=branch, layer=layer)
    architecture, weights = _weights(what)
    file = _file(weights.url, name=name)
    # What torchvision opens this file with would run code that it holds: it is read through here first.
    state = reading.read(file)
    preset = weights.transforms()
    model_input = ModelInput(
        native_size=int(preset.crop_size[0]),
        mean=tuple(float(value) for value in preset.mean),
        std=tuple(float(value) for value in preset.std),
    )
    # Some learnt from other images before; their scores are of ImageNet's classes all the same.
    dataset = "imagenet" if weights.name.startswith("IMAGENET1K") else None
    note = f"weights of torchvision: {type(weights).__name__}.{weights.name}"
    if architecture in _TRUNKS:
        chosen = entries.select(state, EntriesCard(drop=("fc.*",)), where=str(file))
        return assembling.of_trunk(
            name,
            _TRUNKS[architecture],
            chosen,
            model_input=model_input,
            where=str(file),
            dataset=dataset,
            notes=(note,),
        )
    try:
        with torch.random.fork_rng(devices=[]):
            network = torchvision.models.get_model(architecture, weights=weights)
    except RuntimeError as error:
        raise CheckpointError(f"{file} does not fit torchvision's {architecture}: {error}") from error
    place = cut_classifier(network, model_input, classes=len(weights.meta["categories"]), name=name)
    return assembling.of_library(
        name,
        network,
        model_input=model_input,
        built=f"torchvision {architecture}",
        dataset=dataset,
        notes=(note, f"its features are what goes into {place}"),
    )


def cut_classifier(network: nn.Module, model_input: ModelInput, *, classes: int, name: str) -> str:
    """Take the last linear layer off a classifier, so that it gives what went into that.

    Args:
        network: The classifier.
        model_input: What it takes.
        classes: How many scores it gives.
        name: What to call it in an error.

    Returns:
        What that layer was called.

    Raises:
        UsageError: If the scores are not that layer's output as it stands: their features would be a guess.
    """
    network.eval()
    linears = {path: part for path, part in network.named_modules() if isinstance(part, nn.Linear)}
    place = next((path for path in reversed(linears) if linears[path].out_features == classes), None)
    if place is None:
        raise UsageError(
            f"{name} has no linear layer of {classes} classes to take off; open it in Python, take its features where "
            "you know them, and hand that network to carp_eval"
        )
    side = model_input.native_size
    # Not black: what a network makes of nothing may be the same whatever is taken off.
    images = torch.linspace(-1, 1, model_input.channels * side * side).view(1, -1, side, side)
    seen: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
        seen.append(output)

    hook = linears[place].register_forward_hook(keep)
    try:
        with torch.inference_mode():
            scores: Any = network(images)
    finally:
        hook.remove()
    if len(seen) != 1 or not isinstance(scores, Tensor) or not torch.equal(scores, seen[0]):
        raise UsageError(
            f"{name} does something with the scores of {place}, so its features cannot be told; open it in Python, "
            "take them where you know them, and hand that network to carp_eval"
        )
    parent, _, last = place.rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Identity())
    return place


def _weights(what: str) -> tuple[str, Any]:
    """Find a model's weights, of an enumeration that torchvision's annotations do not foresee."""
    architecture, _, named = what.partition("/")
    known = torchvision.models.list_models(module=torchvision.models)
    if architecture not in known:
        raise UnknownNameError("model in torchvision", architecture, known)
    choices: Any = torchvision.models.get_model_weights(architecture)
    if not named or named == "DEFAULT":
        return architecture, choices.DEFAULT
    if named not in choices.__members__:
        raise UnknownNameError(f"weights of {architecture} in torchvision", named, choices.__members__)
    return architecture, choices[named]


def _file(url: str, *, name: str) -> Path:
    """Return where torchvision keeps the file behind an address, fetched if it is not there.

    Raises:
        CheckpointError: If it cannot be fetched, or is not what its name says.
        StorageError: If the disk is full, read-only or closed to us.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / Path(urlparse(url).path).name
    if file.is_file():
        return file
    files.make_folder(folder)
    stem = file.name.partition(".")[0]
    try:
        with files.storage_errors(file):
            torch.hub.download_url_to_file(url, str(file), hash_prefix=stem.rpartition("-")[2])
    except (URLError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"the weights of {name} cannot be fetched ({error}); fetch {url} by hand and put it into {folder}"
        ) from error
    return file

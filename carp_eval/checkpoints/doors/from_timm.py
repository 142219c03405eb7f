"""Models of timm, by name or from a folder in its layout, at their pooled features."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from carp_eval.cards.checkpoint import Architecture, EntriesCard
from carp_eval.checkpoints import assembling, entries, reading
from carp_eval.checkpoints.assembling import Branch, Layer
from carp_eval.checkpoints.doors import extras
from carp_eval.checkpoints.publishing.hub import FAILURES
from carp_eval.data.images import ModelInput
from carp_eval.errors import CheckpointError, UnknownNameError, UsageError
from carp_eval.models.model import Model

# Those whose timm form is torchvision's: the same entries, the same features.
_PLAIN: dict[str, Architecture] = {
    "resnet18": "resnet18",
    "resnet34": "resnet34",
    "resnet50": "resnet50",
    "resnet101": "resnet101",
}
# What timm raises of names, weights and downloads.
_FAILURES = (*FAILURES, LookupError, TypeError, AttributeError, AssertionError, SafetensorError)
_NO_CLASSIFIER = EntriesCard(drop=("fc.*",))


def opened(name: str, what: str, *, branch: Branch | None, layer: Layer) -> Model:
    """Open a model of timm with its pretrained weights.

    Args:
        name: What results should call it.
        what: `vit_small_patch16_224.dino`; without a tag, timm's own choice of weights.
        branch: `student` is an error: there is one network.
        layer: `projection` is one, too.

    Raises:
        UnknownNameError: If timm has no such weights of the model.
        CheckpointError: If its weights cannot be had, or do not fill it.
        UsageError: If timm is not installed or has no such model, or that has no such branch or layer.
    """
    assembling.check_single(name, branch=branch, layer=layer)
    timm = extras.require("timm", needed_for=name)
    architecture = what.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else "timm.list_models() lists them."
        raise UsageError(f"timm has no model named {architecture!r}. {hint}")
    if what.partition(".")[2] and what not in timm.list_pretrained():
        known = timm.list_pretrained(f"{architecture}.*")
        raise UnknownNameError("model with weights in timm", what, known)
    network = _created(what, name=name)
    cfg: dict[str, Any] = network.pretrained_cfg  # pyright: ignore[reportAssignmentType]
    source = cfg.get("hf_hub_id") or cfg.get("url") or "an unknown place"
    note = f"weights of timm: {architecture}.{cfg.get('tag') or 'untagged'}, from {source}"
    if architecture in _PLAIN:
        state = entries.select(network.state_dict(), _NO_CLASSIFIER, where=name)
        return assembling.of_trunk(
            name, _PLAIN[architecture], state, model_input=_input(cfg), where=name, notes=(note,)
        )
    return _headless(name, network, built=f"timm {architecture}", notes=(note,))


def of_folder(name: str, folder: Path, config: Mapping[str, Any], *, notes: tuple[str, ...] = ()) -> Model:
    """Open a model in timm's Hub layout.

    A plain ResNet goes through the trunks of this package, without timm.

    Args:
        name: What results should call it.
        folder: Holds `config.json` and the weights.
        config: The content of `config.json`.
        notes: What whoever reads its scores must know.

    Raises:
        CheckpointError: If the weights do not fill the network, or cannot be read.
        UsageError: If timm is needed and not installed.
    """
    architecture = str(config["architecture"])
    weights = folder / "model.safetensors"
    if _is_plain(config) and weights.is_file():
        state = entries.select(reading.read(weights), _NO_CLASSIFIER, where=str(weights))
        trunk = _PLAIN[architecture.partition(".")[0]]
        model_input = _input(config["pretrained_cfg"])
        return assembling.of_trunk(
            name, trunk, state, model_input=model_input, where=str(weights), notes=notes
        )
    extras.require("timm", needed_for=name)
    network = _created(f"local-dir:{folder}", name=name)
    arguments = json.dumps(config.get("model_args", {}), sort_keys=True)
    return _headless(name, network, built=f"timm {architecture} {arguments}", notes=notes)


def _headless(name: str, network: nn.Module, *, built: str, notes: tuple[str, ...]) -> Model:
    timm = extras.require("timm", needed_for=name)
    data = timm.data.resolve_model_data_config(network)
    try:
        network.reset_classifier(0)  # pyright: ignore[reportCallIssue]
    except _FAILURES as error:
        raise UsageError(f"timm cannot take the classifier off {name}: {error}") from error
    return assembling.of_library(name, network, model_input=_input(data), built=built, notes=notes)


def _created(what: str, *, name: str) -> nn.Module:
    """Let timm create a network, and make sure that every entry came from its weights."""
    timm = extras.require("timm", needed_for=name)
    try:
        # With its classifier: without, timm would let other entries be missing too.
        first, second = (_seeded(timm.create_model, what, seed=seed) for seed in (0, 1))
    except _FAILURES as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"timm cannot open {name}: {reason}. Without the internet, name a folder that holds its config.json and "
            "model.safetensors: hf:FOLDER"
        ) from error
    state, other = first.state_dict(), second.state_dict()
    random = [entry for entry in state if not torch.equal(state[entry], other[entry])]
    if random:
        raise CheckpointError(
            f"{name} does not fill the network that timm builds of it: {len(random)} entries stayed random "
            f"({', '.join(random[:5])}{' ...' if len(random) > 5 else ''})"
        )
    return first


def _seeded(create: Any, what: str, *, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return create(what, pretrained=True)


def _is_plain(config: Mapping[str, Any]) -> bool:
    """Tell whether a config.json is that of a ResNet in torchvision's form."""
    if str(config["architecture"]).partition(".")[0] not in _PLAIN or "pretrained_cfg" not in config:
        return False
    pooling = config.get("global_pool", "avg")
    unchanged = {"num_classes": None, "in_chans": 3, "global_pool": "avg"}
    arguments: Mapping[str, Any] = config.get("model_args") or {}
    return pooling == "avg" and all(
        key in unchanged and unchanged[key] in (None, value) for key, value in arguments.items()
    )


def _input(config: Mapping[str, Any]) -> ModelInput:
    """Read what timm says of a model's input."""
    return ModelInput(
        native_size=int(config["input_size"][-1]),
        mean=tuple(float(value) for value in config["mean"]),
        std=tuple(float(value) for value in config["std"]),
    )

"""A frozen model: what the rest of the toolkit needs to know of whatever was loaded."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from carp_eval.cards.checkpoint import CheckpointCard
from carp_eval.data.images import ModelInput


@dataclass(frozen=True)
class Model:
    """A network in evaluation mode that turns images into features.

    Attributes:
        name: The model as the user spelled it, or as results should call it.
        network: Maps float images `[n, channels, height, width]` to features `[n, feature_dim]`.
        input: What the model owns of preprocessing.
        feature_dim: Width of the features.
        weights_sha256: What tells it from every other model: the hash of all parameters and buffers (`weights_sha256`
            below) or, where the same entries could give other features in other hands, `network_sha256`.
        branch: `teacher`, `student`, or empty where there is only one.
        layer: `pool` or `projection`.
        dataset: The data set it was trained on, where it is known; what `-d` defaults to.
        folder: The run it came from, where results go; None elsewhere.
        card: What its makers and the zoo say of it; None where nobody did.
        notes: What whoever reads its scores must know of how it was opened.
    """

    name: str
    network: nn.Module
    input: ModelInput
    feature_dim: int
    weights_sha256: str
    branch: str = ""
    layer: str = "pool"
    dataset: str | None = None
    folder: Path | None = None
    card: CheckpointCard | None = None
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Every name under which published tables may have it: none, where they judge another of its networks."""
        if self.card is None:
            return frozenset((self.name,))
        judged = next(iter(self.card.weights.branches))
        return (
            frozenset((self.name, *self.card.published_as))
            if judged in (self.branch, "single")
            else frozenset()
        )


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash a state dictionary: names, types, shapes and bytes, whatever file it came in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def network_sha256(state: Mapping[str, Tensor], *, built: str) -> str:
    """Hash a network of which the names of its entries do not tell all: whose code it is, its activations, its pooling.

    Args:
        state: Its parameters and buffers.
        built: What tells it from other networks of the same entries. Empty for a trunk that bears torchvision's names,
            of which there is one: the hash is then that of the state.
    """
    weights = weights_sha256(state)
    return hashlib.sha256(f"{weights}\n{built}".encode()).hexdigest() if built else weights

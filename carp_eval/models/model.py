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
        weights_sha256: Hash of all parameters and buffers (`weights_sha256` below).
        branch: `teacher`, `student`, or empty where there is only one.
        layer: `pool` or `projection`.
        dataset: The data set it was trained on, where it is known; what `-d` defaults to.
        folder: The run it came from, where results go; None elsewhere.
        card: What its makers and the zoo say of it; None where nobody did.
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

    @property
    def names(self) -> frozenset[str]:
        """Every name under which published tables may have it."""
        return frozenset((self.name, *(self.card.published_as if self.card else ())))


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash a state dictionary: names, types, shapes and bytes, whatever file it came in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

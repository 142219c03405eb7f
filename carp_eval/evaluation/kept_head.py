"""The linear classifier that an evaluation has scored, kept beside its record: one safetensors file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from carp_eval.cards.frozen import Frozen
from carp_eval.errors import CheckpointError
from carp_eval.features.rows import unit_rows
from carp_eval.results import Result, Setting

# The file's only entry of metadata: the writer puts several in an order of chance, and equal heads would differ.
ENTRY = "carp"
VERSION = 1


class HeadRecord(Frozen):
    """What is to be known of a kept head.

    Attributes:
        version: Of this record.
        scaling: What is done to features first: `plain` is nothing, `unit` brings each row to length 1, `standardised`
            subtracts the file's `mean` and divides by its `scale`.
        settings: What was chosen in training it.
        class_names: What each logit stands for.
        weights_sha256: The trunk's weights.
        preprocessing: How the scored images became the trunk's input.
    """

    version: int = VERSION
    protocol: str
    variant: str
    card_sha256: str
    model: str
    branch: str
    layer: str
    weights_sha256: str
    dataset: str
    bank_split: str
    scaling: str
    settings: dict[str, Setting]
    class_names: tuple[str, ...]
    preprocessing: dict[str, object]


@dataclass(frozen=True)
class KeptHead:
    """A linear classifier on a model's features.

    Attributes:
        record: Where it comes from, and what its logits stand for.
        weight: A row for each class.
        bias: A value for each class.
        mean: Is subtracted from features first; None where nothing is.
        scale: Divides them after that.
    """

    record: HeadRecord
    weight: Float[Tensor, "class dim"]
    bias: Float[Tensor, " class"]
    mean: Float[Tensor, " dim"] | None = None
    scale: Float[Tensor, " dim"] | None = None

    def logits(self, features: Float[Tensor, "row dim"]) -> Float[Tensor, "row class"]:
        """Score every class for features as a bank holds them, or as the trunk gives them."""
        scaled = features.float()
        if self.record.scaling == "unit":
            scaled = unit_rows([scaled])
        if self.mean is not None and self.scale is not None:
            scaled = (scaled - self.mean) / self.scale
        return torch.addmm(self.bias, scaled.to(self.weight), self.weight.T)


def pack(head: Mapping[str, Tensor], result: Result, class_names: Sequence[str]) -> bytes:
    """Return the file of a head, byte for byte the same for the same head.

    Args:
        head: Its tensors, by the names that `KeptHead` has for them.
        result: The record of what scored it.
        class_names: What each logit stands for.
    """
    record = HeadRecord(
        protocol=result.protocol,
        variant=result.variant,
        card_sha256=result.card_sha256,
        model=result.model,
        branch=result.branch,
        layer=result.layer,
        weights_sha256=result.weights_sha256,
        dataset=result.dataset,
        bank_split=result.bank_split,
        scaling=str(result.card.get("scaling", "plain")),
        settings=result.scores[0].settings if result.scores else {},
        class_names=tuple(class_names),
        preprocessing=result.preprocessing,
    )
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in head.items()}
    return save(tensors, metadata={ENTRY: record.model_dump_json()})


def read(path: Path) -> KeptHead:
    """Read a kept head.

    Raises:
        CheckpointError: If the file is missing, damaged, or no head that this release knows.
    """
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})[ENTRY])
            if content.get("version") != VERSION:
                raise CheckpointError(
                    f"{path} is a head of version {content.get('version')}; this release reads version {VERSION}: "
                    "use the release that wrote it"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        record = HeadRecord.model_validate(content)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no head at {path}") from error
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): copy or fetch it again") from error
    except (KeyError, TypeError, AttributeError, ValueError, ValidationError) as error:
        raise CheckpointError(f"{path} is no head that `carp eval linear` kept: {error}") from error
    classes = len(record.class_names)
    dim = tensors["weight"].shape[-1] if "weight" in tensors else 0
    wanted = {"weight": (classes, dim), "bias": (classes,)}
    if record.scaling == "standardised":
        wanted |= {"mean": (dim,), "scale": (dim,)}
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != wanted:
        came = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in sorted(tensors.items()))
        raise CheckpointError(
            f"{path} is damaged: a {record.scaling} head of {classes} classes has {', '.join(wanted)} that fit one "
            f"another; it holds {came}"
        )
    return KeptHead(record, **tensors)

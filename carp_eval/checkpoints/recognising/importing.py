"""From a file that somebody has to a card that says how it is read."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carp_eval import files
from carp_eval.cards import licences, loading, shelf
from carp_eval.cards.checkpoint import (
    Architecture,
    BranchName,
    CheckpointCard,
    EntriesCard,
    InputCard,
    WeightsCard,
)
from carp_eval.checkpoints import reading, training
from carp_eval.checkpoints.recognising import by_hand, formats, recognise, resnets
from carp_eval.errors import CheckpointError, UnknownNameError, UsageError

# Names that tell nothing of what is inside; the folder's may.
_PLAIN = re.compile(
    r"(checkpoint|ckpt|last|best|model|pytorch_model|weights|resnet\d*)?[-_]?\d*", re.IGNORECASE
)
_ENDINGS = re.compile(r"(\.(pth|pt|tar|ckpt|bin|safetensors|zip|torch))+$", re.IGNORECASE)


@dataclass(frozen=True)
class Told:
    """What a user tells of a file; None and empty where nothing is told.

    Attributes:
        name: What to call it, or a model of the zoo whose card says how it is read.
        architecture: The trunk.
        wrapper: The keys to descend through.
        strip: Prefixes to take off.
        drop: Patterns of what to leave out; if there is one, nothing else is left out.
        branch: Which of two networks to take alone.
        member: The file inside an archive.
        mean: What is subtracted from each channel.
        std: What each channel is divided by.
        native_size: Side of the images it was trained on.
        licence: SPDX identifier.
        dataset: What it was trained on.
    """

    name: str | None = None
    architecture: str | None = None
    wrapper: tuple[str, ...] | None = None
    strip: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    branch: BranchName | None = None
    member: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    native_size: int | None = None
    licence: str = ""
    dataset: str | None = None

    @property
    def of_the_entries(self) -> list[str]:
        """The options that say what a card of the zoo says already."""
        said = {
            "--architecture": self.architecture,
            "--wrapper": self.wrapper is not None,
            "--strip": self.strip,
            "--drop": self.drop,
            "--branch": self.branch,
            "--member": self.member,
            "--mean": self.mean,
            "--std": self.std,
            "--native-size": self.native_size,
            "--licence": self.licence,
            "--dataset": self.dataset,
        }
        return [option for option, value in said.items() if value]


@dataclass(frozen=True)
class Plan:
    """How a file would be imported.

    Attributes:
        name: What the model will be called.
        card: How the file is read.
        found: What was found in it, in words.
    """

    name: str
    card: CheckpointCard
    found: str


def plan(file: Path, told: Told) -> Plan:
    """Say how a file would be imported: by the card of the zoo that is named, or by what is recognised in it.

    Raises:
        UsageError: If the name cannot be, or what is told contradicts it.
        CheckpointError: If the file cannot be read or not recognised, or is another than the card's.
    """
    name = _name(file, told)
    if name in shelf.names(shelf.ZOO):
        return _by_card(name, file, told)
    content = reading.read(file, member=told.member)
    found = _found(content, told, where=str(file))
    branches: dict[BranchName, EntriesCard] = found.branches
    if told.branch is not None:
        if told.branch not in branches:
            raise UsageError(f"{file} has no branch {told.branch!r}; it has {', '.join(branches)}")
        branches = {"single": branches[told.branch]}
    model_input, dataset = _input(content, file, told)
    card = CheckpointCard(
        version=1,
        summary=f"{found.format}, imported from {file.name}",
        method=name,
        architecture=found.architecture,
        feature_dim=resnets.feature_dim(found.architecture),
        dataset=dataset,
        input=model_input,
        weights=WeightsCard(
            by_hand=f"It was imported from {file.name}.",
            member=told.member,
            sha256=files.sha256(file),
            size=file.stat().st_size,
            branches=branches,
        ),
        licence=licences.check(told.licence) if told.licence else "",
        publishable=licences.lets_publish(told.licence),
    )
    return Plan(name, card, found.describe())


def _by_card(name: str, file: Path, told: Told) -> Plan:
    if told.of_the_entries:
        raise UsageError(
            f"{name} is a model of the zoo, whose card says how its file is read: leave "
            f"{', '.join(told.of_the_entries)} out, or choose another name with --as"
        )
    card = loading.checkpoint_card(name)
    if not file.is_file():
        raise CheckpointError(f"there is no checkpoint file at {file}")
    wanted, size = card.weights.sha256, file.stat().st_size
    if card.weights.size is not None and size != card.weights.size:
        raise CheckpointError(
            f"{file} has {size:,} bytes; that of {name} has {card.weights.size:,}: fetch it again"
        )
    if wanted and (came := files.sha256(file)) != wanted:
        raise CheckpointError(
            f"{file} is not the file of {name}: its sha256 is {came}, and the card has {wanted}. Fetch it again, or "
            "choose another name with --as"
        )
    known = "its hash is the card's" if wanted else "the card knows no hash to hold it against"
    return Plan(name, card, f"read by the card of {name}; {known}")


def _name(file: Path, told: Told) -> str:
    if told.name is not None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", told.name):
            raise UsageError(
                f"--as {told.name!r}: a name has letters, digits, dots, dashes and underscores, and begins with one of "
                "the first two"
            )
        return told.name
    stem = _ENDINGS.sub("", file.name)
    parent = file.absolute().parent
    if _PLAIN.fullmatch(stem):
        parent = parent.parent if parent.name == "checkpoints" else parent
        stem = f"{parent.name}-{stem}" if stem and stem != "last" else parent.name
    name = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")
    if not name:
        raise UsageError(f"nothing in {file.name!r} makes a name: choose one with --as")
    if name in shelf.names(shelf.ZOO):
        raise UsageError(
            f"{name} is a model of the zoo: say --as {name} to read the file by its card, or "
            "choose another name"
        )
    return name


def _found(content: Mapping[str, Any], told: Told, *, where: str) -> recognise.Found:
    architecture = _architecture(told.architecture)
    if told.wrapper is None and not told.strip and not told.drop:
        found = recognise.recognise(content, where=where, branch=told.branch)
        if architecture is not None and architecture != found.architecture:
            raise CheckpointError(f"{where} holds a {found.architecture}, not a {architecture}")
        return found
    how = EntriesCard(wrapper=told.wrapper or (), strip=told.strip, drop=told.drop)
    return by_hand.read(content, how, architecture, anywhere=told.wrapper is None, where=where)


def _architecture(name: str | None) -> Architecture | None:
    for known in resnets.ARCHITECTURES:
        if known == name:
            return known
    if name is not None:
        raise UnknownNameError("architecture", name, resnets.ARCHITECTURES)
    return None


def _input(content: Mapping[str, Any], file: Path, told: Told) -> tuple[InputCard, str]:
    """Return what the model takes and what it was trained on: as told, else as our recipe says, else ImageNet's."""
    dataset, known = "imagenet", InputCard()
    if formats.ours(content):
        recipe = training.load(file).recipe
        known = InputCard(native_size=recipe.views[0].size, mean=recipe.data.mean, std=recipe.data.std)
        dataset = recipe.data.name
    mean, std = told.mean or known.mean, told.std or known.std
    finite = all(map(math.isfinite, (*mean, *std)))
    if not finite or len(mean) != len(std) or len(mean) not in (1, 3) or min(std) <= 0:
        raise UsageError("--mean and --std need as many finite numbers, 1 or 3, and those of --std above 0")
    chosen = InputCard(native_size=told.native_size or known.native_size, mean=mean, std=std)
    return chosen, told.dataset or dataset

"""From a file's content to the trunk's entries, as a card says."""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from carp_eval.cards.checkpoint import EntriesCard
from carp_eval.errors import CheckpointError

# What the numbers are where a trunk was made by `nn.Sequential(*resnet.children())`, as lightly's examples do.
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def select(content: Mapping[str, Any], card: EntriesCard, *, where: str) -> dict[str, Tensor]:
    """Take the entries that a card calls the trunk's, under torchvision's names.

    A trunk whose parts are numbered, as `nn.Sequential` does, gets torchvision's names. Where none of the counts
    that BatchNorm keeps of its batches is there, as in old files, all are zero.

    Args:
        content: What the file holds.
        card: Where the weights lie in it, which prefixes to take off, what to leave out.
        where: The file, for errors.

    Raises:
        CheckpointError: If there is no such dictionary inside, or two names become one.
    """
    found: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    for name, value in descend(content, card.wrapper, where=where).items():
        if not isinstance(value, Tensor):
            continue
        stripped = str(name)
        for prefix in card.strip:
            stripped = stripped.removeprefix(prefix)
        if any(fnmatch.fnmatchcase(stripped, pattern) for pattern in card.drop):
            continue
        if stripped in found:
            raise CheckpointError(
                f"{where}: {origins[stripped]} and {name} both become {stripped} once {', '.join(card.strip)} is "
                "stripped: strip the whole prefix of the network that is wanted, or drop the other"
            )
        found[stripped], origins[stripped] = value, str(name)
    if not found:
        raise CheckpointError(
            f"{where}: no weights are left{_at(card.wrapper) or ' at the top level'}"
            + (f" without {', '.join(card.drop)}" if card.drop else "")
            + f"; the file has {listed(map(str, content))}"
        )
    return with_counts(torchvision_names(found))


def descend(content: Mapping[str, Any], wrapper: Iterable[str], *, where: str) -> Mapping[str, Any]:
    """Return the dictionary that lies behind some keys, from the outside in.

    Raises:
        CheckpointError: If a key is not there, or what is behind it is no dictionary.
    """
    inside, passed = content, []
    for key in wrapper:
        if key not in inside:
            raise CheckpointError(
                f"{where} has no {key!r}{_at(passed)}; it has {listed(map(str, inside))}. Say where the weights "
                "lie with --wrapper"
            )
        passed.append(key)
        value = inside[key]
        if not isinstance(value, Mapping):
            raise CheckpointError(
                f"{where}: {'.'.join(passed)} is a {type(value).__name__}, not a dictionary of weights"
            )
        inside = cast(Mapping[str, Any], value)
    return inside


def torchvision_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the parts of a trunk as torchvision does, where they are numbered."""
    if "0.weight" not in state or "4.0.conv1.weight" not in state:
        return dict(state)
    return {_CHILDREN.get(name.partition(".")[0], name.partition(".")[0]) + name[name.index(".") :]: value
            for name, value in state.items() if "." in name}  # fmt: skip


def with_counts(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add BatchNorm's counts of batches, which old releases of torch did not keep, if none is there."""
    counted = dict(state)
    if not any(name.endswith("num_batches_tracked") for name in state):
        for name in state:
            if name.endswith(".running_mean"):
                counted[re.sub("running_mean$", "num_batches_tracked", name)] = torch.tensor(0)
    return counted


def listed(names: Iterable[str], *, most: int = 8) -> str:
    """Put names in a row, the first few of many."""
    every = list(names)
    rest = f" and {len(every) - most:,} more" if len(every) > most else ""
    return (", ".join(every[:most]) + rest) or "nothing"


def _at(wrapper: Iterable[str]) -> str:
    path = ".".join(wrapper)
    return f" in {path}" if path else ""

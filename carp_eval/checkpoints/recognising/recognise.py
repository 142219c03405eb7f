"""Telling a file's format from its content: where a ResNet lies in it, under which names, and what lies beside it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from carp_eval.cards.checkpoint import Architecture, BranchName, EntriesCard
from carp_eval.checkpoints import entries
from carp_eval.checkpoints.recognising import formats, resnets
from carp_eval.errors import CheckpointError

# Of two networks in one file, what the one is called that follows the other slowly.
_FOLLOWERS = ("teacher", "momentum", "ema", "target", "encoder_k", "key_encoder")
# VISSL lays the most dictionaries around its trunk: four.
_DEEPEST = 8


@dataclass(frozen=True)
class Place:
    """Where a trunk lies in a file.

    Attributes:
        wrapper: The keys to descend through.
        prefix: What its names begin with.
    """

    wrapper: tuple[str, ...]
    prefix: str

    def __str__(self) -> str:
        under = " > ".join(self.wrapper) or "the top level"
        return f"{under}, names beginning with {self.prefix!r}" if self.prefix else under

    @property
    def options(self) -> str:
        """How to say it on the command line."""
        parts = ([f"--wrapper {'.'.join(self.wrapper)}"] if self.wrapper else []) + (
            [f"--strip {self.prefix}"] if self.prefix else []
        )
        return " ".join(parts) or "--wrapper ''"


@dataclass(frozen=True)
class Found:
    """A format that was recognised.

    Attributes:
        format: What it is, for people.
        architecture: The trunk.
        branches: How each network in it is read; the one to judge first.
        dropped: What is left out of every network: patterns, and the number of entries of each.
    """

    format: str
    architecture: Architecture
    branches: dict[BranchName, EntriesCard]
    dropped: tuple[str, ...]

    def describe(self) -> str:
        """Say it in a line or a few."""
        lines = [f"{self.format}: a {self.architecture}"]
        for branch, card in self.branches.items():
            named = "" if branch == "single" else f"{branch}: "
            under = " > ".join(card.wrapper) or "the top level"
            stripped = f", without the prefix {' and then '.join(card.strip)}" if card.strip else ""
            lines.append(f"  {named}under {under}{stripped}")
        if self.dropped:
            lines.append(f"  left out: {', '.join(self.dropped)}")
        return "\n".join(lines)


def recognise(content: Mapping[str, Any], *, where: str, branch: BranchName | None = None) -> Found:
    """Find the trunk of a ResNet in a file's content, or the two trunks of a teacher and a student.

    Args:
        content: What the file holds.
        where: The file, for errors.
        branch: Which of two is wanted: both are found also where the format's authors judge one alone.

    Raises:
        CheckpointError: If there is none, or one that lacks entries, or several of which none is known to be the one
            that is meant; the message says what was found.
    """
    every = {
        place: state for wrapper, names in dictionaries(content) for place, state in _trunks(wrapper, names)
    }
    whole: dict[Place, Architecture] = {}
    for place, state in every.items():
        architecture = resnets.architecture_of(state)
        if architecture is not None and resnets.fits(state, architecture):
            whole[place] = architecture
    if not whole:
        raise CheckpointError(_not_found(content, every, where))
    places = _without_copies({place: every[place] for place in whole})
    if len({whole[place] for place in places}) > 1:
        raise CheckpointError(_ambiguous(places, where))
    branches = _branches(places, where, alone=branch is None)
    cards: dict[BranchName, EntriesCard] = {}
    dropped: dict[str, int] = {}
    for branch, place in branches.items():
        cards[branch], patterns = entries_card(content, place, whole[place], where=where)
        dropped |= patterns
    # Each of two networks in one dictionary leaves the other out, and both are read.
    networks = {f"{card.strip[-1]}*" for card in cards.values() if card.strip}
    words = tuple(f"{name} ({number:,})" for name, number in dropped.items() if name not in networks)
    first = next(iter(branches.values()))
    return Found(formats.name_of(content, first.wrapper, first.prefix), whole[first], cards, words)


def dictionaries(content: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Go through the dictionaries of tensors in a file, each with the keys that lead to it."""
    waiting: list[tuple[tuple[str, ...], Mapping[str, Any]]] = [((), content)]
    seen: set[int] = set()
    while waiting:
        path, inside = waiting.pop(0)
        if id(inside) in seen or len(path) > _DEEPEST:
            continue
        seen.add(id(inside))
        tensors = {str(name): value for name, value in inside.items() if isinstance(value, Tensor)}
        if tensors:
            yield path, tensors
        for name, value in inside.items():
            if isinstance(value, Mapping):
                waiting.append(((*path, str(name)), cast(Mapping[str, Any], value)))


def entries_card(
    content: Mapping[str, Any], place: Place, architecture: Architecture, *, where: str
) -> tuple[EntriesCard, dict[str, int]]:
    """Say how a trunk is read, so that exactly its entries remain.

    Returns:
        The card, and how many entries each of its patterns leaves out.

    Raises:
        CheckpointError: If the names of another network would become the same.
    """
    names = [name for name, value in entries.descend(content, place.wrapper, where=where).items()
             if isinstance(value, Tensor)]  # fmt: skip
    trunk = resnets.shapes(architecture)
    for strip in _ways_to_strip(place.prefix, names):
        others = _others(names, strip, trunk)
        patterns = formats.patterns(others, kept=trunk)
        card = EntriesCard(wrapper=place.wrapper, strip=strip, drop=tuple(patterns))
        try:
            left = entries.select(content, card, where=where)
        except CheckpointError:
            continue
        if left.keys() == trunk.keys() and resnets.fits(left, architecture):
            return card, patterns
    raise CheckpointError(
        f"{where}: the trunk at {place} cannot be told from other entries once its prefix is stripped. Save its own "
        "entries to a file of their own"
    )


def _ways_to_strip(prefix: str, names: list[str]) -> list[tuple[str, ...]]:
    """Return ways to take a prefix off: what all names share first, so that what is dropped bears its plain name."""
    if not prefix:
        return [()]
    shared = "module."
    if prefix.startswith(shared) and prefix != shared and all(name.startswith(shared) for name in names):
        return [(shared, prefix.removeprefix(shared)), (prefix,)]
    return [(prefix,)]


def _others(names: list[str], strip: tuple[str, ...], trunk: Mapping[str, object]) -> list[str]:
    others: list[str] = []
    for name in names:
        for prefix in strip:
            name = name.removeprefix(prefix)
        if not resnets.belongs(name, trunk):
            others.append(name)
    return others


def _trunks(
    wrapper: tuple[str, ...], names: Mapping[str, Tensor]
) -> Iterator[tuple[Place, dict[str, Tensor]]]:
    """Go through the prefixes under which something like a ResNet lies."""
    for prefix in dict.fromkeys(prefix for name in names for prefix in resnets.prefixes(name)):
        state = {name[len(prefix) :]: value for name, value in names.items() if name.startswith(prefix)}
        yield Place(wrapper, prefix), entries.with_counts(entries.torchvision_names(state))


def _without_copies(places: Mapping[Place, Mapping[str, Tensor]]) -> list[Place]:
    """Leave out trunks that are another's very tensors, as where one module has two names."""
    kept: list[Place] = []
    addresses: set[tuple[int, ...]] = set()
    for place, state in places.items():
        address = tuple(state[name].data_ptr() for name in sorted(state) if "weight" in name)
        if address not in addresses:
            kept.append(place)
        addresses.add(address)
    return kept


def _branches(places: list[Place], where: str, *, alone: bool) -> dict[BranchName, Place]:
    if len(places) == 1:
        return {"single": places[0]}
    followers = [place for place in places if _is_called(place, _FOLLOWERS)]
    if len(places) != 2 or len(followers) != 1:
        raise CheckpointError(_ambiguous(places, where))
    follower = followers[0]
    leader = places[1 - places.index(follower)]
    if alone and _is_called(follower, ("encoder_k",)):
        # MoCo's queue of keys needs the follower; what is judged is the other.
        return {"single": leader}
    if _is_called(follower, ("teacher",)):
        return {"teacher": follower, "student": leader}
    return {"student": leader, "teacher": follower}


def _is_called(place: Place, words: tuple[str, ...]) -> bool:
    parts = ".".join((*place.wrapper, place.prefix)).lower().split(".")
    return any(
        part == word or word in part.split("_") or part.startswith(f"{word}_")
        for part in parts
        for word in words
    )


def _ambiguous(places: list[Place], where: str) -> str:
    choices = "\n".join(f"  {place}: {place.options}" for place in places)
    return (
        f"{where} holds {len(places)} trunks, and nothing tells which is meant. Say one to `carp zoo import FILE`:\n"
        f"{choices}"
    )


def _not_found(content: Mapping[str, Any], near: Mapping[Place, Mapping[str, Tensor]], where: str) -> str:
    if formats.ours(content):
        return f"{where} is a checkpoint of `carp train`, with a network of its own: open it as it is, with -m FILE"
    lines = [f"{where}: no ResNet's trunk was recognised in it."]
    lines.append(f"  its top level has: {entries.listed(_kinds(content))}")
    if near:
        place, state = max(near.items(), key=lambda item: resnets.overlap(item[1]))
        lines.append(f"  the nearest lies at {place}:")
        lines += [f"    {line}" for line in resnets.difference(state)]
    else:
        for wrapper, names in list(dictionaries(content))[:4]:
            under = " > ".join(wrapper) or "the top level"
            lines.append(f"  {len(names):,} tensors under {under}: {entries.listed(names, most=5)}")
    lines.append(
        "  if one is there, import the file: `carp zoo import FILE` with --wrapper, where the trunk lies; --strip, the "
        "prefix of its names; --drop, what is not the trunk's; and --architecture, one of "
        + ", ".join(resnets.ARCHITECTURES)
    )
    return "\n".join(lines)


def _kinds(content: Mapping[str, Any]) -> list[str]:
    kinds: list[str] = []
    for name, value in content.items():
        if isinstance(value, Mapping):
            kinds.append(f"{name} ({len(cast(Mapping[str, Any], value))} entries)")
        elif isinstance(value, Tensor):
            kinds.append(f"{name} {tuple(value.shape)}")
        else:
            kinds.append(f"{name} ({type(value).__name__})")
    return kinds

"""Reading a file as a user says, where it is not recognised, or not as the user wants it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from carp_eval.cards.checkpoint import Architecture, BranchName, EntriesCard
from carp_eval.checkpoints import entries
from carp_eval.checkpoints.recognising import formats, recognise, resnets
from carp_eval.checkpoints.recognising.recognise import Found
from carp_eval.errors import CheckpointError


def read(
    content: Mapping[str, Any],
    how: EntriesCard,
    architecture: Architecture | None,
    *,
    anywhere: bool,
    where: str,
) -> Found:
    """Read a file as a user says, and find out what the user does not say.

    Args:
        content: What the file holds.
        how: Where the trunk lies; if it drops nothing, all that is not the trunk's is dropped.
        architecture: The trunk; None is the one that the entries have most in common with.
        anywhere: Whether the dictionary may lie anywhere in the file.
        where: The file, for errors.

    Raises:
        CheckpointError: If nothing lies there, or in several dictionaries.
    """
    if anywhere:
        how = how.model_copy(update={"wrapper": _wrapper_of(content, how.strip, where=where)})
    inside = entries.descend(content, how.wrapper, where=where)
    if not how.strip and not how.drop:
        # Only where the dictionary lies was said.
        tensors = {name: value for name, value in inside.items() if isinstance(value, Tensor)}
        found = recognise.recognise(tensors, where=where)
        cards: dict[BranchName, EntriesCard] = {
            branch: card.model_copy(update={"wrapper": how.wrapper})
            for branch, card in found.branches.items()
        }
        name = formats.name_of(content, how.wrapper, "".join(next(iter(cards.values())).strip))
        return Found(name, architecture or found.architecture, cards, found.dropped)
    state = entries.select(content, how, where=where)
    chosen = architecture or resnets.nearest(state)
    others = [name for name in state if not resnets.belongs(name, resnets.shapes(chosen))]
    patterns = {} if how.drop else formats.patterns(others, kept=resnets.shapes(chosen))
    words = tuple(f"{name} ({number:,})" for name, number in patterns.items()) or how.drop
    card = how.model_copy(update={"drop": how.drop or tuple(patterns)})
    return Found(formats.name_of(content, how.wrapper, "".join(how.strip)), chosen, {"single": card}, words)


def _wrapper_of(content: Mapping[str, Any], strip: tuple[str, ...], *, where: str) -> tuple[str, ...]:
    """Find the dictionary that has names which begin with what is to be stripped, or else those of a trunk."""
    places = [
        wrapper
        for wrapper, names in recognise.dictionaries(content)
        if any(name.startswith(strip) if strip else bool(list(resnets.prefixes(name))) for name in names)
    ]
    if len(places) == 1:
        return places[0]
    if not places:
        raise CheckpointError(
            f"{where} has no entries whose names begin with {' or '.join(strip) or 'a ResNet'!r}"
        )
    choices = ", ".join(f"--wrapper {'.'.join(wrapper)}" if wrapper else "--wrapper ''" for wrapper in places)
    raise CheckpointError(f"{where} has such names in {len(places)} dictionaries. Say one: {choices}")

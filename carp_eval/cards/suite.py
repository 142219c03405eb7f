"""Suite cards: a list of evaluations that one command runs, and what of each is shown."""

import fnmatch
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from carp_eval.cards import loading
from carp_eval.cards.frozen import Card, Frozen
from carp_eval.cards.protocol import ProtocolCard
from carp_eval.errors import UnknownNameError

SUITES = "protocols/suites"


class ShownCard(Frozen):
    """A score that a table has a row for.

    Attributes:
        metric: What it measures.
        settings: What tells it from others of the same metric; all whose settings hold these are meant.
    """

    metric: str
    settings: dict[str, str | int | float] = {}


class EntryCard(Frozen):
    """One evaluation.

    Attributes:
        kind: The kind of protocol.
        variant: Its variant.
        dataset: The data set; left out, the one that the model was trained on.
        queries: Another data set whose images are scored.
        changes: Values by top-level key of the protocol's card: its splits, a fraction.
        shown: The scores to show; left out, the suite's.
    """

    kind: str
    variant: str
    dataset: str | None = None
    queries: str | None = None
    changes: dict[str, Any] = {}
    shown: tuple[ShownCard, ...] = ()

    @property
    def protocol(self) -> str:
        """The protocol's card by name."""
        return f"{self.kind}@{self.variant}"

    def card(self) -> ProtocolCard:
        """Read the protocol's card, changed.

        Raises:
            CarpError: If there is none, or a change does not fit it.
        """
        return loading.protocol_card(self.kind, self.variant, self.changes)


class AverageCard(Frozen):
    """The mean of one score over all entries.

    Attributes:
        name: What it is called.
        dataset: What stands for all data sets where such a mean is published.
        shown: The score.
    """

    name: str
    dataset: str
    shown: ShownCard


class SuiteCard(Card):
    """A list of evaluations.

    Attributes:
        entries: The evaluations, in the order they run.
        shown: The scores to show of an entry that does not say.
        averages: Means over all entries.
    """

    entries: Annotated[tuple[EntryCard, ...], Field(min_length=1)]
    shown: tuple[ShownCard, ...] = ()
    averages: tuple[AverageCard, ...] = ()


def suite(name: str) -> SuiteCard:
    """Read a suite card.

    Args:
        name: A name in `protocols/suites`, or a path ending in `.toml`.

    Raises:
        UnknownNameError: If there is no such suite.
        CardError: If the card is broken.
    """
    path = loading.find(name, SUITES, what="suite")
    return loading.check(SuiteCard, loading.read(path, SUITES), where=str(path))


def chosen(card: SuiteCard, patterns: Sequence[str]) -> SuiteCard:
    """Return a suite of some of its entries only, without the means over all of them.

    Args:
        card: The suite.
        patterns: What an entry's kind, protocol, data set or queries must match, one of them; `*` stands for anything.

    Raises:
        UnknownNameError: If a pattern matches none.
    """
    if not patterns:
        return card
    names = [(entry.kind, entry.protocol, entry.dataset or "", entry.queries or "") for entry in card.entries]
    for pattern in patterns:
        if not any(fnmatch.filter(known, pattern) for known in names):
            raise UnknownNameError(
                "entry of the suite", pattern, {name for known in names for name in known if name}
            )
    entries = tuple(
        entry
        for entry, known in zip(card.entries, names, strict=True)
        if any(fnmatch.filter(known, pattern) for pattern in patterns)
    )
    return card.model_copy(update={"entries": entries, "averages": ()})

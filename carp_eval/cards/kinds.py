"""Which class reads a protocol card of which kind: ours by one literal table, others' by entry point."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carp_eval import plugins
from carp_eval.cards import cluster, copydays, fewshot, linear, retrieval
from carp_eval.cards.finetune import FinetuneCard
from carp_eval.cards.knn import KnnCard
from carp_eval.cards.labelfree import LabelFreeCard
from carp_eval.cards.protocol import ProtocolCard
from carp_eval.cards.shelf import PROTOCOLS, folder
from carp_eval.cards.voc07 import Voc07Card
from carp_eval.errors import UnknownNameError

# A kind whose variants have different keys chooses the class by the card's content.
KINDS: dict[str, Callable[[dict[str, Any]], type[ProtocolCard]]] = {
    "knn": lambda _: KnnCard,
    "cluster": cluster.card_type,
    "copydays": copydays.card_type,
    "fewshot": fewshot.card_type,
    "finetune": lambda _: FinetuneCard,
    "labelfree": lambda _: LabelFreeCard,
    "linear": linear.card_type,
    "retrieval": retrieval.card_type,
    "semisup": lambda _: FinetuneCard,
    "voc07": lambda _: Voc07Card,
}


@dataclass(frozen=True)
class ProtocolPlugin:
    """A kind of protocol that another package brings.

    Attributes:
        card_type: Chooses the class that reads a card of the kind, by the card's content.
        run: Where its `evaluation.runners.Runner` is, as `module:attribute`; imported when it is to run.
        command: Makes changes of a card of the command's own options, which typer reads from its signature.
        variant: The variant that runs where none is named.
        cards: Folder of its cards, `KIND@VARIANT.toml` each.
    """

    card_type: Callable[[dict[str, Any]], type[ProtocolCard]]
    run: str
    command: Callable[..., dict[str, Any]]
    variant: str
    cards: Path


def plugin(kind: str) -> ProtocolPlugin | None:
    """Return a kind of protocol that another package brings; None if none does.

    Raises:
        PluginError: If its package does not work.
    """
    return plugins.load(plugins.PROTOCOLS, kind, ProtocolPlugin)


def folder_of(kind: str) -> Path:
    """Return the folder that holds the cards of a kind.

    Raises:
        UnknownNameError: If no protocol is of that kind.
        PluginError: If its package does not work.
    """
    if kind in KINDS:
        return folder(PROTOCOLS)
    brought = plugin(kind)
    if brought is None:
        raise UnknownNameError("kind of protocol", kind, (*KINDS, *plugins.names(plugins.PROTOCOLS)))
    return brought.cards


def card_type(content: dict[str, Any]) -> type[ProtocolCard]:
    """Return the class that reads a protocol card of this content's kind.

    Raises:
        KeyError: If no protocol is of that kind.
        PluginError: If its package does not work.
    """
    kind = content["kind"]
    brought = None if kind in KINDS else plugin(kind)
    return (KINDS[kind] if brought is None else brought.card_type)(content)

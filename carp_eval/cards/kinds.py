"""Which class reads a protocol card of which kind: one literal table."""

from collections.abc import Callable
from typing import Any

from carp_eval.cards import linear
from carp_eval.cards.cluster import ClusterCard
from carp_eval.cards.knn import KnnCard
from carp_eval.cards.labelfree import LabelFreeCard
from carp_eval.cards.protocol import ProtocolCard
from carp_eval.cards.retrieval import RetrievalCard

# A kind whose variants have different keys chooses the class by the card's content.
KINDS: dict[str, Callable[[dict[str, Any]], type[ProtocolCard]]] = {
    "knn": lambda _: KnnCard,
    "cluster": lambda _: ClusterCard,
    "labelfree": lambda _: LabelFreeCard,
    "linear": linear.card_type,
    "retrieval": lambda _: RetrievalCard,
}


def card_type(content: dict[str, Any]) -> type[ProtocolCard]:
    """Return the class that reads a protocol card of this content's kind.

    Raises:
        KeyError: If no protocol is of that kind.
    """
    return KINDS[content["kind"]](content)

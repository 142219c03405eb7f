"""Which class reads a protocol card of which kind: one literal table."""

from collections.abc import Callable
from typing import Any

from carp_eval.cards import cluster, copydays, fewshot, linear, retrieval
from carp_eval.cards.finetune import FinetuneCard
from carp_eval.cards.knn import KnnCard
from carp_eval.cards.labelfree import LabelFreeCard
from carp_eval.cards.protocol import ProtocolCard
from carp_eval.cards.voc07 import Voc07Card

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


def card_type(content: dict[str, Any]) -> type[ProtocolCard]:
    """Return the class that reads a protocol card of this content's kind.

    Raises:
        KeyError: If no protocol is of that kind.
    """
    return KINDS[content["kind"]](content)

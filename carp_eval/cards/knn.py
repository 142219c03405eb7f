"""The card of weighted k-nearest-neighbour classification."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_serializer

from carp_eval.cards.protocol import ProtocolCard


class KnnCard(ProtocolCard):
    """Weighted k-nearest-neighbour classification.

    Attributes:
        k: Numbers of neighbours; all come from one search.
        temperature: Softness of the vote, tau.
        temperatures: Several of them instead, each of which is tried with each k.
        normalise: Whether features are scaled to unit length, so that similarity is the cosine.
        search: How neighbours are found: `exact`; `bf16`, which believes eight-bit products where they may miss one;
            `approximate`, by the bank's index, which may miss some.
    """

    # Told only where they are not as ever, so that cards, and results, from before they were there are the same still.
    LATER: ClassVar[frozenset[str]] = frozenset({"search"})

    kind: Literal["knn"]  # pyright: ignore[reportIncompatibleVariableOverride]
    k: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    temperature: PositiveFloat
    temperatures: tuple[PositiveFloat, ...] = ()
    normalise: bool = True
    search: Literal["exact", "bf16", "approximate"] = "exact"

    @model_serializer(mode="wrap")
    def _without_later(self, serialise: Callable[["KnnCard"], dict[str, Any]]) -> dict[str, Any]:
        fields = type(self).model_fields
        same = {name for name in self.LATER if getattr(self, name) == fields[name].default}
        return {name: value for name, value in serialise(self).items() if name not in same}

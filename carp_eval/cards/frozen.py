"""What every card is: an immutable record that refuses keys it does not know."""

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A record that cannot change and has no room for a misspelled key."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Card(Frozen):
    """A whole card.

    Attributes:
        version: The card's own version; a change that moves a score raises it.
        summary: One line for people.
        source: The document and section it follows.
    """

    version: int
    summary: str
    source: str = ""

"""Models of others on this machine: which there are, and where they came from. Without torch: `carp zoo list` asks."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from carp_eval import files
from carp_eval.cards import loading
from carp_eval.cards.checkpoint import BranchName, CheckpointCard
from carp_eval.cards.frozen import Frozen
from carp_eval.errors import CheckpointError

RECORD = "origin.json"
CARD = "card.toml"


class Origin(Frozen):
    """Where a model on this machine came from, in `origin.json`.

    Attributes:
        source: The address, or the path, that the file came from.
        file_sha256: Hash of that file.
        size: Its bytes.
        found: How it was read, in words.
        branches: Hash of each network's entries, by branch.
        untrained: Whether it was taken although its weights are as they were initialised.
        date: When, in ISO 8601.
    """

    source: str
    file_sha256: str
    size: int
    found: str
    branches: dict[BranchName, str]
    untrained: bool = False
    date: str


@dataclass(frozen=True)
class Pulled:
    """A model on this machine.

    Attributes:
        name: What it is called.
        card: What its makers, or whoever imported it, say of it.
        folder: Where it lies.
        origin: Where it came from.
    """

    name: str
    card: CheckpointCard
    folder: Path
    origin: Origin


def folder(name: str) -> Path:
    """Return the folder of a model: `$CARP_HOME/zoo/NAME`."""
    return files.home() / "zoo" / name


def find(name: str) -> Pulled | None:
    """Return a model if it is on this machine.

    Raises:
        CheckpointError: If its record is damaged.
        CardError: If its card is.
    """
    record = folder(name) / RECORD
    # Names are those of cards: what a user types may be a path.
    if "/" in name or "\\" in name or name.startswith(".") or not record.is_file():
        return None
    try:
        origin = Origin.model_validate_json(record.read_bytes())
    except (ValidationError, OSError) as error:
        raise CheckpointError(
            f"{record} is damaged: {error}. Have the model again: carp pull {name} --force, or carp zoo import"
        ) from error
    return Pulled(name, loading.checkpoint_card(name), folder(name), origin)


def everything() -> list[str]:
    """Return the names of all models on this machine."""
    return sorted(record.parent.name for record in (files.home() / "zoo").glob(f"*/{RECORD}"))

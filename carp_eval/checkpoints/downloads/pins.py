"""The hash of what a source gave the first time, kept so that a change of it does not pass unseen."""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from carp_eval import files
from carp_eval.errors import CheckpointError


class Pin(BaseModel):
    """What a source gave.

    Attributes:
        sha256: Hash of the file.
        size: Its bytes.
        date: When, in UTC.
    """

    model_config = ConfigDict(frozen=True)

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int
    date: str


class _Pins(BaseModel):
    version: int = 1
    pins: dict[str, Pin] = {}


def path() -> Path:
    """Return the file of pins: `pins.json` in `$CARP_HOME`."""
    return files.home() / "pins.json"


def find(source: str) -> Pin | None:
    """Return what a source gave the first time; None if nothing was fetched from it.

    Raises:
        CheckpointError: If the file of pins is broken.
    """
    return _read().pins.get(source)


def keep(source: str, *, sha256: str, size: int) -> None:
    """Pin what a source gave, in place of what it gave before.

    Raises:
        CheckpointError: If the file of pins is broken.
        StorageError: If it cannot be written.
    """
    with files.locked(path()):
        content = _read()
        date = datetime.now(UTC).isoformat(timespec="seconds")
        content.pins[source] = Pin(sha256=sha256, size=size, date=date)
        files.write_text(path(), content.model_dump_json(indent=2) + "\n")


def _read() -> _Pins:
    try:
        return _Pins.model_validate_json(path().read_bytes())
    except FileNotFoundError:
        return _Pins()
    except (ValidationError, OSError) as error:
        raise CheckpointError(
            f"{path()}, which holds the hashes of files fetched before, cannot be read: put it right, or remove it "
            "and have every source trusted anew at its next fetch"
        ) from error

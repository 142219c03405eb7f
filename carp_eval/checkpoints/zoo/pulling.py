"""Pulling a model of the zoo: fetch its file, make sure of it, store its trunk, and let the download go."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from carp_eval import files
from carp_eval.cards.checkpoint import CheckpointCard
from carp_eval.checkpoints.downloads import fetching, pins, receipt
from carp_eval.checkpoints.downloads.receipt import Fetched
from carp_eval.checkpoints.zoo import pulled
from carp_eval.checkpoints.zoo.pulled import Pulled
from carp_eval.errors import CheckpointError, UsageError

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a pull did.

    Attributes:
        pulled: The model, as it is on this machine now.
        fetched: The file it came from; None where the model was there already.
        pin: Whether the file's hash was pinned: `new` is the first fetch from that source, `changed` one that took
            another file than before; `same` and `needless` (the card tells the hash) pin nothing.
        download: Where the file is kept; None where it was removed.
    """

    pulled: Pulled
    fetched: Fetched | None = None
    pin: Literal["", "new", "changed", "same", "needless"] = ""
    download: Path | None = None


def pull(
    name: str,
    card: CheckpointCard,
    *,
    source: str | None = None,
    repin: bool = False,
    force: bool = False,
    keep_download: bool = False,
    progress: Callable[[int, int], None] | None = None,
    tell: Tell | None = None,
) -> Outcome:
    """Have a model of the zoo on this machine; one that is there already is left as it is.

    Args:
        name: The model.
        card: What the zoo says of it.
        source: One of the card's sources by its number, counted from 1, or a source that it does not list; None is
            the card's, in their order.
        repin: Whether a source may give another file than it gave the first time.
        force: Whether a model that is there is fetched again.
        keep_download: Whether the file itself is kept beside the trunk that was read from it.
        progress: Told how many bytes came, of how many.
        tell: Told in words what it waits for.

    Raises:
        UsageError: If the source is none.
        CheckpointError: If no source gives the file, or it is not what it should be.
        StorageError: If the disk is full or refuses.
    """
    say: Tell = tell or (lambda _: None)
    spellings = chosen(card, source)
    waiting = f"waiting for another process that pulls {name}"
    with files.locked(pulled.folder(name).with_name(f"{name}.pull"), waiting=lambda: say(waiting)):
        there = None if force or repin else pulled.find(name)
        if there is not None:
            return Outcome(there)
        fetched = fetching.fetch(
            spellings,
            name=name,
            sha256=card.weights.sha256,
            size=card.weights.size,
            by_hand=card.weights.by_hand,
            repin=repin,
            anew=force,
            progress=progress,
            tell=tell,
        )
        # torch takes seconds to import, and a download need not wait for it.
        from carp_eval.checkpoints.zoo import storing

        try:
            stored = storing.add(name, card, fetched.path, source=fetched.source)
        except CheckpointError as error:
            raise CheckpointError(
                f"{error}\nThe file is kept at {fetched.path}. If you know better than the card how it is read, look "
                f"with `carp zoo import {fetched.path}`; to fetch it anew, carp pull {name} --force"
            ) from error
        pin = _pinned(fetched)
        if keep_download:
            return Outcome(stored, fetched, pin, fetched.path)
        receipt.clear(fetched.path.parent)
        return Outcome(stored, fetched, pin)


def chosen(card: CheckpointCard, source: str | None) -> tuple[str, ...]:
    """Return the sources to try.

    Args:
        card: The model's.
        source: A number, counted from 1, or a spelling; None is all of the card's.

    Raises:
        UsageError: If the card has no source of that number.
    """
    known = card.weights.sources
    if source is None:
        return known
    if not source.isdigit():
        return (source,)
    if not 1 <= int(source) <= len(known):
        raise UsageError(f"--source {source}: the card lists {len(known)} sources, counted from 1")
    return (known[int(source) - 1],)


def _pinned(fetched: Fetched) -> Literal["new", "changed", "same", "needless"]:
    """Pin the hash of a file that has turned out to be good, where no card tells it."""
    if fetched.vouched == "card":
        return "needless"
    before = pins.find(fetched.source)
    if before is not None and before.sha256 == fetched.sha256:
        return "same"
    pins.keep(fetched.source, sha256=fetched.sha256, size=fetched.size)
    return "new" if before is None else "changed"

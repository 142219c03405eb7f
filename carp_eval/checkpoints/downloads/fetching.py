"""Fetching a released file: its sources in order, and nothing taken that is not what it should be."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from carp_eval import files
from carp_eval.checkpoints.downloads import drive, hub, pins, receipt, sources, transfer, vouching
from carp_eval.checkpoints.downloads.asking import Request
from carp_eval.checkpoints.downloads.receipt import Fetched
from carp_eval.errors import CheckpointError

_BY_HAND = "fetch it with a browser from one of these, or look for it on the page of its makers"


def fetch(
    spellings: Sequence[str],
    *,
    name: str,
    sha256: str = "",
    size: int | None = None,
    by_hand: str = "",
    folder: Path | None = None,
    repin: bool = False,
    anew: bool = False,
    progress: transfer.Progress | None = None,
    tell: transfer.Tell | None = None,
) -> Fetched:
    """Fetch a file from the first of its sources that gives it whole and unchanged.

    Killed or broken off, the same call goes on where it was. Two at once: the second waits, and takes what the first
    fetched. A file with another hash than expected is removed, and the next source tried. The pin of a source is
    compared here and kept by the caller (`pins.keep`), once the file has turned out to be good.

    Args:
        spellings: The sources, in the order to try (see `sources.SPELLINGS`).
        name: The model.
        sha256: Hash that the file must have; empty where nobody told it.
        size: Bytes that it must have; None where nobody told.
        by_hand: What to do where no source gives it.
        folder: Where it goes, and nothing else; None is a folder of the model's in `$CARP_HOME/downloads`.
        repin: Whether a source may give another file than it gave the first time.
        anew: Whether a whole file that lies there is fetched again.
        progress: Told how many bytes came, of how many (0 where it is not known).
        tell: Told in words what it waits for, and why it goes on to the next source.

    Raises:
        UsageError: If a source is spelled in no way there is.
        CheckpointError: If no source gives it, or one gives another file than before.
        StorageError: If the disk is full or refuses.
    """
    say: transfer.Tell = tell or (lambda _: None)
    asked = [sources.parse(spelling) for spelling in spellings]
    folder = files.make_folder(folder or default_folder(name))
    # Beside the folder, which is removed once the file is needed no more.
    with files.locked(folder, waiting=lambda: say(f"waiting for another process that fetches {name}")):
        lies = None if anew else receipt.find(folder)
        # With repin, only the file that was refused without it; any other is asked for again.
        if lies is not None and _suits(lies, spellings, sha256) and repin == _changed(lies):
            return lies
        receipt.discard(folder)
        problems: list[str] = []
        for source in asked:
            try:
                fetched = _from(source, folder, sha256=sha256, size=size, progress=progress, say=say)
            except CheckpointError as error:
                problems.append(f"{source.spelling}: {error}")
                if source is not asked[-1]:
                    say(f"{problems[-1]}; trying the next source")
                continue
            if not repin and _changed(fetched):
                raise CheckpointError(_explain_change(fetched, name))
            return fetched
    raise CheckpointError(_explain(name, problems, by_hand))


def look(spelling: str) -> transfer.Told:
    """Ask a source for its file and look at the answer alone.

    Raises:
        UsageError: If it is spelled in no way there is.
        CheckpointError: If it does not give the file; the message says why.
    """
    return transfer.look(_request(sources.parse(spelling)))


def default_folder(name: str) -> Path:
    """Return where a model's download goes: a folder in `$CARP_HOME/downloads`."""
    return files.home() / "downloads" / name


def _from(
    source: sources.Source,
    folder: Path,
    *,
    sha256: str,
    size: int | None,
    progress: transfer.Progress | None,
    say: transfer.Tell,
) -> Fetched:
    # Each source has its own part: nobody knows yet whether they give the same file.
    part = folder / f"{source.file_name}.{hashlib.sha256(source.spelling.encode()).hexdigest()[:8]}.part"
    told = transfer.download(
        _request(source),
        part,
        size=size,
        hash_is_known=bool(sha256 or vouching.hash_in(source.file_name)),
        progress=progress,
        tell=say,
    )
    try:
        came, vouched = vouching.check(
            part, file_name=source.file_name, size=size, card_sha256=sha256, server_sha256=told.sha256
        )
    except CheckpointError:
        transfer.forget(part)
        raise
    return receipt.take(part, folder / source.file_name, source=source.spelling, sha256=came, vouched=vouched)


def _request(source: sources.Source) -> Request:
    if hub.offline():
        raise CheckpointError("HF_HUB_OFFLINE is set, so nothing is fetched: unset it")
    match source:
        case sources.HubFile():
            return hub.request(source)
        case sources.DriveFile():
            return drive.request(source)
        case sources.WebFile():
            return Request(source.url)


def _suits(lies: Fetched, spellings: Sequence[str], sha256: str) -> bool:
    """Tell whether a file that lies there is what is asked for."""
    return lies.sha256 == sha256 if sha256 else lies.source in spellings


def _changed(fetched: Fetched) -> bool:
    """Tell whether a source gave another file the first time; the card's own hash stands above that."""
    pin = pins.find(fetched.source)
    return fetched.vouched != "card" and pin is not None and pin.sha256 != fetched.sha256


def _explain_change(fetched: Fetched, name: str) -> str:
    pin = pins.find(fetched.source)
    assert pin is not None
    return (
        f"{fetched.source} gives another file than it gave on {pin.date[:10]}: SHA-256 {fetched.sha256} "
        f"({fetched.size:,} bytes), where it was {pin.sha256} ({pin.size:,} bytes). Ask its makers why. To take the "
        f"new one: carp pull {name} --repin (what came is kept for that in {fetched.path.parent}); to fetch it from "
        "elsewhere: --source"
    )


def _explain(name: str, problems: Sequence[str], by_hand: str) -> str:
    lines = [f"{name} could not be fetched:" if problems else f"{name} has no source to fetch it from."]
    lines += [f"  {number}. {problem}" for number, problem in enumerate(problems, 1)]
    lines += ["By hand:", *(f"  {line}" for line in (by_hand.strip() or _BY_HAND).splitlines())]
    lines += ["and then, with the FILE that you have:", f"  carp zoo import FILE --as {name}"]
    return "\n".join(lines)

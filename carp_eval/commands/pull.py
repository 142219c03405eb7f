"""`carp pull`: have a released model on this machine, or one that someone pushed to the Hub."""

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carp_eval.commands import options, pull_hub

if TYPE_CHECKING:
    from carp_eval.cards.checkpoint import CheckpointCard
    from carp_eval.checkpoints.zoo.pulling import Outcome


def pull(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Names from `carp zoo list`, a card's path (.toml), or hf:USER/NAME\\[@REVISION].",
        ),
    ],
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            help="Fetch from this source of the card's alone (its number, from 1), or from one that it does not list: "
            "hf:USER/NAME/PATH, https://..., gdrive:ID.",
        ),
    ] = None,
    repin: Annotated[
        bool, typer.Option("--repin", help="Take a file that is not the one the source gave the first time.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Fetch it again, though it is here.")] = False,
    keep_download: Annotated[
        bool, typer.Option("--keep-download", help="Keep the file itself beside the trunk read from it.")
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", metavar="FOLDER", help="Copy a model of the Hub, with all that came along, here."
        ),
    ] = None,
    use_bank: Annotated[
        bool,
        typer.Option(
            "--use-bank", help="Let protocols use the memory bank that came with a model of the Hub."
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say where it would come from, and whether that answers, and stop."),
    ] = False,
    json: options.Json = False,
) -> None:
    """Fetch a released model, make sure that it is what it should be, and store its trunk.

    Killed or broken off, the same command goes on where it was. The first fetch of a file whose hash nobody told
    prints its hash and pins it; a file with another hash is then refused.
    """
    from carp_eval.commands import tables
    from carp_eval.errors import CheckpointError, HubError, UsageError

    # All spellings first: a misspelled name is not told an hour later.
    cards = {name: None if name.startswith("hf:") else _card(name) for name in dict.fromkeys(names)}
    if source is not None and len(cards) > 1:
        raise UsageError("--source is of one model: name one")
    if None in cards.values() and (source is not None or repin or keep_download):
        raise UsageError(
            "a model of the Hub has one source and its hashes there: leave --source, --repin and "
            "--keep-download out"
        )
    if (to is not None or use_bank) and [*cards.values()] != [None]:
        raise UsageError("--to and --use-bank are of one model of the Hub: name one, hf:USER/NAME")
    records: list[dict[str, Any]] = []
    failed: list[str] = []
    for name, card in cards.items():
        try:
            if dry_run:
                record = _from_hub(name) if card is None else _sources(name, card, source)
            elif card is None:
                record = pull_hub.pull(name, to=to, use_bank=use_bank)
            else:
                record = _pull(
                    name, card, source=source, repin=repin, force=force, keep_download=keep_download
                )
        except (CheckpointError, HubError) as error:
            if len(cards) == 1:
                raise
            tables.warn(f"{name}: {error}")
            failed.append(name)
            continue
        records.append(record)
        if not json:
            (pull_hub.show if "scores" in record else _show)(record)
    if json:
        print(jsonlib.dumps(records, indent=2, default=str))
    if failed:
        raise CheckpointError(f"{len(failed)} of {len(cards)} models were not pulled: {', '.join(failed)}")


def _card(name: str) -> "CheckpointCard":
    from carp_eval.cards import loading, shelf
    from carp_eval.errors import UsageError

    card = loading.checkpoint_card(name)
    if name.endswith(".toml") and _called(name) in shelf.names(shelf.ZOO):
        raise UsageError(
            f"the zoo has a model named {_called(name)}: give the card {name} another file name, which is what the "
            "model will be called"
        )
    return card


def _called(name: str) -> str:
    return Path(name).stem if name.endswith(".toml") else name


def _pull(
    name: str,
    card: "CheckpointCard",
    *,
    source: str | None,
    repin: bool,
    force: bool,
    keep_download: bool,
) -> dict[str, Any]:
    from carp_eval.checkpoints.zoo import pulling
    from carp_eval.commands import progress, tables

    called = _called(name)
    with progress.bars(in_bytes=True) as bars:
        outcome = pulling.pull(
            called,
            card,
            source=source,
            repin=repin,
            force=force,
            keep_download=keep_download,
            progress=bars(called),
            tell=tables.warn,
        )
    return _told(called, card, outcome)


def _told(name: str, card: "CheckpointCard", outcome: "Outcome") -> dict[str, Any]:
    from carp_eval.checkpoints.downloads import pins

    origin = outcome.pulled.origin
    pin = {
        "new": f"told by nobody, so pinned in {pins.path()}",
        "changed": f"another than before; pinned anew in {pins.path()}",
        "same": "the same as when it was first fetched",
        "needless": "as the card tells",
        "": "",
    }[outcome.pin]
    record: dict[str, Any] = {
        "name": name,
        "state": "pulled" if outcome.fetched else "here already; nothing was fetched",
        "source": origin.source,
        "found": origin.found,
        "sha256": origin.file_sha256,
        "pin": pin,
        "size": origin.size,
        "branches": list(origin.branches),
        "folder": str(outcome.pulled.folder),
        "download": str(outcome.download or ""),
        "licence": _licence(card),
        "use it": f"carp eval knn -m {name}",
    }
    return {key: value for key, value in record.items() if value not in ("", None)}


def _licence(card: "CheckpointCard") -> str:
    """Say in a line what a user must know of a model's licence."""
    if not card.licence:
        return (
            card.licence_note
            or "nobody told one: ask the authors before you publish the weights or build on them"
        )
    closed = "NC" in card.licence.upper().split("-")
    told = f"{card.licence}: not for commercial use" if closed else card.licence
    return f"{told}. {card.licence_note}" if card.licence_note else told


def _sources(name: str, card: "CheckpointCard", source: str | None) -> dict[str, Any]:
    from carp_eval.checkpoints.downloads import fetching
    from carp_eval.checkpoints.zoo import pulling
    from carp_eval.errors import CheckpointError

    answers: dict[str, str] = {}
    for spelling in pulling.chosen(card, source):
        try:
            size = fetching.look(spelling).total
        except CheckpointError as error:
            answers[spelling] = f"no: {error}"
        else:
            answers[spelling] = f"yes, {size:,} bytes" if size else "yes"
    return {
        "name": name,
        "state": "would be fetched",
        "sources": answers,
        "by hand": card.weights.by_hand.strip(),
        "licence": _licence(card),
    }


def _from_hub(spelling: str) -> dict[str, Any]:
    return {"name": spelling, "state": "would be fetched from the Hub"}


def _show(record: dict[str, Any]) -> None:
    from carp_eval.commands import tables

    shown: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            shown[key] = "\n".join(f"{source}: {answer}" for source, answer in value.items())
        elif key not in ("name", "use it") and value not in ([], ""):
            shown[key] = value
    tables.show_mapping(shown, title=record["name"], as_json=False)
    if "use it" in record:
        tables.say(record["use it"])

"""How the models of the zoo look in the terminal, and as JSON."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from carp_eval.cards.checkpoint import CheckpointCard, EntriesCard
from carp_eval.cards.published_numbers import PublishedNumber, highest
from carp_eval.checkpoints.zoo.pulled import Pulled
from carp_eval.commands import tables

# Of narrower terminals; a name tells method and epochs too.
_WIDE = 110
_HEADLINES = {"linear": "linear", "k-NN": "knn"}


class ListedModel(NamedTuple):
    """One line of the list.

    Attributes:
        name: The model.
        card: What is known of it.
        here: Whether it is on this machine.
        numbers: What was published of it.
    """

    name: str
    card: CheckpointCard
    here: bool
    numbers: Sequence[PublishedNumber]

    def best(self, protocol: str) -> PublishedNumber | None:
        """Return the highest ImageNet top-1 accuracy by a kind of protocol."""
        return highest(self.numbers, protocol=protocol, dataset="imagenet")


def show_list(models: Sequence[ListedModel], *, as_json: bool) -> None:
    """Print a line for each model."""
    if as_json:
        print(json.dumps([_list_record(model) for model in models], indent=2))
        return
    console = Console()
    rows = [_line(model, wide=console.width >= _WIDE) for model in models]
    table = Table(title="Models known by name", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in rows[0]:
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row.values()))
    console.print(table)


def show_one(
    name: str,
    card: CheckpointCard,
    found: Pulled | None,
    numbers: Sequence[PublishedNumber],
    *,
    as_json: bool,
) -> None:
    """Print all that is known of one model."""
    if as_json:
        print(json.dumps(_record(name, card, found, numbers), indent=2))
        return
    tables.show_mapping(_told(name, card, found), title=name, as_json=False)
    if not numbers:
        tables.say("no table has numbers of it under this name")
        return
    rows = [_number(number) for number in numbers]
    if not any(number.taken_from for number in numbers):
        rows = [{key: value for key, value in row.items() if key != "cited from"} for row in rows]
    tables.show_rows(rows, title="What was published of it", as_json=False)


def _list_record(model: ListedModel) -> dict[str, Any]:
    card = model.card
    record: dict[str, Any] = {
        "name": model.name,
        "summary": card.summary,
        "method": card.method,
        "architecture": card.architecture,
        "epochs": card.epochs,
        "licence": card.licence,
        "publishable": card.publishable,
        "pulled": model.here,
    }
    for protocol in _HEADLINES.values():
        number = model.best(protocol)
        record[protocol] = number.model_dump(mode="json") if number else None
    return record


def _line(model: ListedModel, *, wide: bool) -> dict[str, str]:
    card = model.card
    method = {"method": card.method, "epochs": str(card.epochs or "")} if wide else {}
    best = {heading: model.best(protocol) for heading, protocol in _HEADLINES.items()}
    if not wide:
        best = {heading.replace("linear", "lin."): number for heading, number in best.items()}
    return {
        "name": model.name,
        **method,
        "licence": card.licence or "none told",
        "again": "yes" if card.publishable else "no",
        "here": "yes" if model.here else "",
        **{heading: f"{number.value:.1f}" if number else "" for heading, number in best.items()},
    }


def _record(
    name: str, card: CheckpointCard, found: Pulled | None, numbers: Sequence[PublishedNumber]
) -> dict[str, Any]:
    here = {"folder": str(found.folder), **found.origin.model_dump(mode="json")} if found else None
    return {
        "name": name,
        **card.model_dump(mode="json"),
        "pulled": here,
        "published": [number.model_dump(mode="json") for number in numbers],
    }


def _told(name: str, card: CheckpointCard, found: Pulled | None) -> Mapping[str, str]:
    weights = card.weights
    lines = {
        "what": card.summary,
        "method": card.method,
        "trunk": f"{card.architecture}, {card.feature_dim:,} features",
        "trained on": f"{card.dataset}, {card.epochs} epochs" if card.epochs else card.dataset,
        "input": _input(card),
        "licence": ". ".join(part for part in (card.licence or "none told", card.licence_note) if part),
        "may be published again": "yes" if card.publishable else "no",
        "paper": card.paper,
        "page": card.page,
        "recipe": card.recipe,
        "fetched from": "\n".join(weights.sources),
        "file inside": weights.member,
        "by hand": " ".join(weights.by_hand.split()),
        "sha256": weights.sha256,
        "size": f"{weights.size:,} bytes" if weights.size else "",
        "networks": "\n".join(
            f"{branch}: {_read_as(entries)}" for branch, entries in weights.branches.items()
        ),
        "also called": ", ".join(card.published_as),
        "according to": card.source,
        "here": _here(name, found),
    }
    return {key: value for key, value in lines.items() if value}


def _input(card: CheckpointCard) -> str:
    size, mean, std = card.input.native_size, card.input.mean, card.input.std
    if not any(mean) and set(std) == {1.0}:
        return f"{size} pixels, values in [0, 1]"
    return f"{size} pixels, mean {', '.join(map(str, mean))}, std {', '.join(map(str, std))}"


def _read_as(entries: EntriesCard) -> str:
    parts = {
        "under": " > ".join(entries.wrapper),
        "without the prefixes": " ".join(entries.strip),
        "leaving out": ", ".join(entries.drop),
    }
    return "; ".join(f"{words} {value}" for words, value in parts.items() if value) or "as it is"


def _here(name: str, found: Pulled | None) -> str:
    if found is not None:
        origin = found.origin
        return f"{found.folder}\nfrom {origin.source}, {origin.date}\nfile's sha256 {origin.file_sha256}"
    return "" if name.endswith(".toml") else f"no; carp pull {name}"


def _number(number: PublishedNumber) -> dict[str, str]:
    settings = ", ".join(f"{key} = {value}" for key, value in number.settings.items())
    return {
        "protocol": f"{number.protocol}@{number.variant}" if number.variant else number.protocol,
        "data": f"{number.dataset} {number.split}",
        "metric": f"{number.metric} ({settings})" if settings else number.metric,
        "value": f"{number.value:g}",
        "document": number.document,
        "table": number.table,
        "cited from": number.taken_from,
    }

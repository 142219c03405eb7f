"""How a result looks in the terminal."""

import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from carp_eval.cards.protocol import ProtocolCard
from carp_eval.commands import tables
from carp_eval.models.model import Model
from carp_eval.results import Published, Result, Score


def show(result: Result, path: Path, *, as_json: bool) -> None:
    """Print a result's scores with their intervals, published values and deltas, and where it was written."""
    if as_json:
        print(json.dumps({"file": str(path), **result.model_dump(mode="json")}, indent=2))
        return
    table = Table(
        "score",
        "value",
        "95 % interval",
        "published",
        "delta",
        title=escape(f"{result.protocol}@{result.variant}: {result.model} on {result.dataset}"),
    )
    for score in result.scores:
        interval = "" if score.low is None or score.high is None else f"{score.low:.2f} to {score.high:.2f}"
        table.add_row(
            _name(score),
            f"{score.value:.2f}",
            interval,
            "\n".join(escape(_published(known)) for known in score.published),
            "\n".join(f"{known.delta:+.2f}" for known in score.published),
        )
    Console().print(table)
    counts = ", ".join(f"{number:,} {name}" for name, number in result.counts.items())
    tables.say(f"{counts}; {result.branch or 'single'} network, layer {result.layer}; {result.seconds:.1f} s")
    for note in result.notes:
        tables.say(f"note: {note}")
    tables.say(f"written to {path}")


def show_plan(card: ProtocolCard, model: Model, *, dataset: str | None, as_json: bool) -> None:
    """Print what would run."""
    tables.show_mapping(
        {"model": model.name, "branch": model.branch, "dataset": dataset, **card.model_dump(mode="json")},
        title="would run",
        as_json=as_json,
    )


def _name(score: Score) -> str:
    settings = ", ".join(f"{key} = {value}" for key, value in score.settings.items())
    return f"{score.metric} ({settings})" if settings else score.metric


def _published(known: Published) -> str:
    variant = "" if known.same_variant else f", {known.variant or 'variant not told'}"
    return f"{known.value:.1f} ({known.document}, {known.table}{variant})"

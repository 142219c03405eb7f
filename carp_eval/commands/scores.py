"""How a result looks in the terminal."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from carp_eval.cards.protocol import ProtocolCard
from carp_eval.commands import tables
from carp_eval.models.model import Model
from carp_eval.report.chosen import is_surface
from carp_eval.results import Published, Result, Score


def show(result: Result, path: Path, *, as_json: bool) -> None:
    """Print a result's scores with their intervals, published values and deltas, and where it was written."""
    if as_json:
        print(json.dumps({"file": str(path), **result.model_dump(mode="json")}, indent=2))
        return
    scored = result.query_dataset
    data = scored if scored == result.dataset else f"{scored}, learnt from {result.dataset}"
    title = f"{result.protocol}@{result.variant}: {result.model} on {data}"
    if is_surface(result.scores):
        _show_surface(result.scores, title=title)
    else:
        _show_table(result.scores, title=title)
    counts = ", ".join(f"{number:,} {name}" for name, number in result.counts.items())
    tables.say(f"{counts}; {result.branch or 'single'} network, layer {result.layer}; {result.seconds:.1f} s")
    for note in result.notes:
        tables.say(f"note: {note}")
    tables.say(f"written to {path}")


def show_plan(
    card: ProtocolCard, model: Model, *, dataset: str | None, queries: str | None, as_json: bool
) -> None:
    """Print what would run."""
    tables.show_mapping(
        {
            "model": model.name,
            "branch": model.branch,
            "dataset": dataset,
            "queries": queries or dataset,
            **card.model_dump(mode="json"),
        },
        title="would run",
        as_json=as_json,
    )


def interval(score: Score) -> str:
    """Return a score's interval in words; empty where it has none."""
    return "" if score.low is None or score.high is None else f"{score.low:.2f} to {score.high:.2f}"


def published(known: Published) -> str:
    """Return a published number, its source, and the variant where that is another one."""
    variant = "" if known.same_variant else f", {known.variant or 'variant not told'}"
    return f"{known.value:.1f} ({known.document}, {known.table}{variant})"


def _show_table(scores: Sequence[Score], *, title: str) -> None:
    table = Table("score", "value", "95 % interval", "published", "delta", title=escape(title))
    for score in scores:
        table.add_row(
            score.name,
            f"{score.value:.2f}",
            interval(score),
            "\n".join(escape(published(known)) for known in score.published),
            "\n".join(f"{known.delta:+.2f}" for known in score.published),
        )
    Console().print(table)


def _show_surface(scores: Sequence[Score], *, title: str) -> None:
    """Print top-1 as a grid, a row for each number of neighbours, the best in bold; the record has the rest."""
    top1 = {
        (score.settings["k"], score.settings["temperature"]): score
        for score in scores
        if score.metric == "top1"
    }
    best = max(score.value for score in top1.values())
    temperatures = list(dict.fromkeys(temperature for _, temperature in top1))
    table = Table("k", title=escape(f"{title}, top-1 by k and temperature"))
    for temperature in temperatures:
        table.add_column(f"T = {_value(temperature)}", justify="right")
    for k in dict.fromkeys(k for k, _ in top1):
        values = (top1[k, temperature].value for temperature in temperatures)
        table.add_row(
            str(k), *(f"[bold]{value:.2f}[/]" if value == best else f"{value:.2f}" for value in values)
        )
    Console().print(table)


def _value(value: str | int | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

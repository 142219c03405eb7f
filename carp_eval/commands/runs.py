"""`carp runs`: the trainings on this disk."""

import json as as_text
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carp_eval.commands import options

if TYPE_CHECKING:
    from carp_eval.report.found import Best, RunSeen

STYLES = {"running": "cyan", "finished": "green", "failed": "red", "gone": "red", "interrupted": "yellow"}
# Blocks of a curve, and at least; letters of a loss behind it, and between columns.
CURVE, SHORTEST_CURVE, LOSS, BESIDE = 20, 8, 8, 2
MOST_BEST = 4


def runs(
    root: Annotated[
        list[Path] | None,
        typer.Option(
            "--root", help="A folder of runs or sweeps; repeatable. Default: runs and sweeps, here."
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """List the runs, newest first: how each stands, its loss, its online 20-NN and its best scores."""
    from carp_eval.commands import tables
    from carp_eval.errors import UsageError
    from carp_eval.report import found

    roots = root or [Path("runs"), Path("sweeps")]
    missing = [str(folder) for folder in root or [] if not folder.is_dir()]
    if missing:
        raise UsageError(f"there is no folder {', '.join(missing)}: name one that holds runs")
    seen = {run.folder.resolve(): run for folder in roots for run in found.runs_in(folder)}
    ordered = sorted(seen.values(), key=lambda run: run.started or run.heard, reverse=True)
    now = datetime.now(UTC)
    if json:
        print(as_text.dumps([_content(run, now) for run in ordered], indent=2))
        return
    if not ordered:
        tables.say(f"no run in {', '.join(map(str, roots))}: carp train digits makes one in a minute")
        return
    _show(ordered, now)


def age(then: datetime, now: datetime) -> str:
    """Return how long ago something was, in the largest unit that fits."""
    seconds = max(0, int((now - then).total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _show(ordered: "list[RunSeen]", now: datetime) -> None:
    """Print a line for each run, and below it what it scored: a table of both would not fit a terminal."""
    from rich.cells import cell_len
    from rich.console import Console
    from rich.text import Text

    from carp_eval.commands import tables
    from carp_eval.report.svg import plain

    console = Console()
    heads = ("run", "recipe", "state", "step", "age")
    rows = [(*_cells(run), age(run.started or run.heard, now)) for run in ordered]
    widths = [max(cell_len(row[place]) for row in (heads, *rows)) for place in range(len(heads))]
    left = console.width - sum(widths) - BESIDE * (len(widths) + 1) - LOSS
    # What there is least need of goes first: the recipe, which the folder's name mostly ends in.
    shown = [place for place, head in enumerate(heads) if left >= SHORTEST_CURVE or head != "recipe"]
    left += 0 if left >= SHORTEST_CURVE else widths[1] + BESIDE
    curve = max(SHORTEST_CURVE, min(CURVE, left))
    gap = " " * BESIDE

    def line(cells: "tuple[str, ...]", loss: str) -> "list[str]":
        padded = [f"{cells[place]}{' ' * (widths[place] - cell_len(cells[place]))}" for place in shown]
        return [*padded[:-1], f"{loss}{' ' * (curve + LOSS - cell_len(loss))}", padded[-1]]

    console.print(Text(gap.join(line(heads, "loss")), style="bold"), soft_wrap=True)
    for run, cells in zip(ordered, rows, strict=True):
        told = Text(gap).join(
            Text(cell, style=STYLES.get(run.state, "") if cell.strip() == run.state else "")
            for cell in line(cells, _loss(run, curve))
        )
        console.print(told, soft_wrap=True)
        for below in (*_online(run), *_best(run.best)):
            console.print(Text(f"    {below}"), soft_wrap=True)
    for run in ordered:
        if run.state == "gone":
            told = f"says that it runs and no process of this machine does; last heard of {age(run.heard, now)} ago"
            tables.warn(
                f"{plain(str(run.folder))} {told}: carp train --resume {plain(str(run.folder))} goes on"
            )
        for problem in run.problems:
            tables.warn(f"left out: {plain(problem)}")


def _cells(run: "RunSeen") -> tuple[str, str, str, str]:
    from carp_eval.report.svg import plain

    step = f"{run.step:,} of {run.num_steps:,}" if run.num_steps else f"{run.step:,}"
    return plain(run.folder.name), plain(run.recipe), run.state, step


def _online(run: "RunSeen") -> list[str]:
    told = ", ".join(f"{name} {value:.1f}" for name, value in run.online.items())
    return [f"{told} % by 20-NN while training"] if told else []


def _loss(run: "RunSeen", width: int) -> str:
    from carp_eval.report.sparkline import sparkline

    return f"{sparkline(run.losses, width=width)} {run.losses[-1]:.3f}" if run.losses else ""


def _best(best: "tuple[Best, ...]") -> list[str]:
    from carp_eval.report import alike
    from carp_eval.report.svg import plain

    lines = [plain(f"{each.score.value:.2f} {each.score.name}, {alike.title(each.result)}") for each in best]
    more = len(lines) - MOST_BEST
    return lines if more < 2 else [*lines[:MOST_BEST], f"and {more} more, which --json lists"]


def _content(run: "RunSeen", now: datetime) -> dict[str, Any]:

    return {
        "folder": str(run.folder),
        "recipe": run.recipe,
        "state": run.state,
        "step": run.step,
        "num_steps": run.num_steps,
        "started": None if run.started is None else run.started.isoformat(),
        "heard": run.heard.isoformat(timespec="seconds"),
        "age_seconds": int((now - (run.started or run.heard)).total_seconds()),
        "loss": run.losses[-1] if run.losses else None,
        "knn": run.online,
        "results": len(run.results),
        "best": [
            {
                "protocol": each.result.protocol,
                "variant": each.result.variant,
                "dataset": each.result.query_dataset,
                "score": each.score.name,
                "value": each.score.value,
                "low": each.score.low,
                "high": each.score.high,
            }
            for each in run.best
        ],
        "problems": run.problems,
    }

"""`carp runs`: the trainings on this disk."""

import json as as_text
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carp_eval.commands import options

if TYPE_CHECKING:
    from rich.text import Text

    from carp_eval.report.found import Best, RunSeen

STYLES = {"running": "cyan", "finished": "green", "failed": "red", "gone": "red", "interrupted": "yellow"}
CURVE = 20
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
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from carp_eval.commands import tables
    from carp_eval.report.svg import plain

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("run", overflow="fold", min_width=15)
    table.add_column("recipe", overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("step", justify="right", no_wrap=True)
    table.add_column("loss", no_wrap=True)
    table.add_column("20-NN", no_wrap=True)
    table.add_column("best scores", overflow="fold", min_width=20)
    table.add_column("age", justify="right", no_wrap=True)
    for run in ordered:
        table.add_row(
            escape(plain(run.folder.name)),
            escape(plain(run.recipe)),
            _state(run),
            f"{run.step:,} of {run.num_steps:,}" if run.num_steps else f"{run.step:,}",
            _loss(run),
            "\n".join(f"{name} {value:.1f}" for name, value in run.online.items()),
            "\n".join(_best(run.best)),
            age(run.started or run.heard, now),
        )
    console = Console()
    console.print(table)
    for run in ordered:
        if run.state == "gone":
            told = f"says that it runs and no process of this machine does; last heard of {age(run.heard, now)} ago"
            tables.warn(
                f"{plain(str(run.folder))} {told}: carp train --resume {plain(str(run.folder))} goes on"
            )
        for problem in run.problems:
            tables.warn(f"left out: {plain(problem)}")


def _state(run: "RunSeen") -> "Text":
    from rich.text import Text

    return Text(run.state, style=STYLES.get(run.state, ""))


def _loss(run: "RunSeen") -> str:
    from carp_eval.report.sparkline import sparkline

    return f"{sparkline(run.losses, width=CURVE)} {run.losses[-1]:.3f}" if run.losses else ""


def _best(best: "tuple[Best, ...]") -> list[str]:
    from rich.markup import escape

    from carp_eval.report import alike
    from carp_eval.report.svg import plain

    lines = [
        escape(plain(f"{each.score.value:.2f} {each.score.name}, {alike.title(each.result)}"))
        for each in best
    ]
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

"""`carp compare`: two models on the same images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carp_eval.commands import options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from carp_eval.report.found import Found

Side = Annotated[
    str,
    typer.Argument(
        help="A run, a result's file (.json), a folder of results, or what results call the model.",
        show_default=False,
    ),
]


def compare(
    first: Side,
    second: Side,
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", metavar="KIND\\[@VARIANT]", help="Only results of this protocol."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option("-d", "--dataset", metavar="DATASET", help="Only results on this data set."),
    ] = None,
    score: Annotated[
        str | None,
        typer.Option(
            "--score",
            metavar="NAME",
            help="Score whose classes and images are looked at, as the table names it. Default: the first.",
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", metavar="FILE.html", help="Write a page too, with pictures where they are at hand."
        ),
    ] = None,
    data_root: options.DataRoot = None,
    json: options.Json = False,
) -> None:
    """Compare two models' results, paired on the same images: differences with intervals, McNemar's test, where.

    Differences are B less A. What was judged on other images, by another variant or with other settings is not
    compared, and what differs is told.
    """
    from functools import partial

    from carp_eval.commands import compare_tables, progress, tables
    from carp_eval.errors import UsageError
    from carp_eval.report import alike, comparison, found

    if to is not None and to.suffix not in (".html", ".htm"):
        raise UsageError(f"--to writes a page: name a file ending in .html, not {to}")
    told = partial(_unreadable, tables.warn)
    sides = [
        _wanted(found.results((side,), unreadable=told), side, protocol, dataset) for side in (first, second)
    ]
    files = [
        len(side) == 1 and Path(name).is_file() for name, side in zip((first, second), sides, strict=True)
    ]
    if all(files):
        matched, alone = [(sides[0][0], sides[1][0])], list[str]()
    else:
        matched, alone = alike.pairs(*sides)
    if not matched:
        why = "\n".join(f"  {each}" for each in alone)
        again = alike.command_for(sides[0][0], alike.spelling(sides[1][0]))
        raise UsageError(
            f"{first} and {second} have no results that can be compared:\n{why}\nJudge the second as the first was: "
            f"{again}"
        )
    chosen = matched if score is None else [pair for pair in matched if _has(pair[0], score)] or matched[:1]
    with progress.bars() as bar:
        compared = [
            comparison.compare(*pair, score=score, progress=bar(alike.title(pair[0].result)))
            for pair in chosen
        ]
    compare_tables.show(compared, alone, data_root=data_root, as_json=json)
    if to is not None:
        from carp_eval.report import comparison_page

        comparison_page.write(compared, alone, to, data_root=data_root)
        if not json:
            tables.say(f"written to {to}")


def _wanted(there: "Sequence[Found]", side: str, protocol: str | None, dataset: str | None) -> "list[Found]":
    from carp_eval.errors import UsageError
    from carp_eval.report import alike

    wanted = [each for each in there if alike.is_of(each.result, protocol=protocol, dataset=dataset)]
    if not wanted:
        known = ", ".join(sorted({alike.title(each.result) for each in there})[:10])
        asked = " on ".join(filter(None, (protocol or "any protocol", dataset)))
        raise UsageError(f"{side} has no result of {asked}; it has: {known or 'none'}")
    return wanted


def _has(found: "Found", score: str) -> bool:
    return any(each.name == score for each in found.result.scores)


def _unreadable(warn: "Callable[[str], None]", problem: str) -> None:
    warn(f"left out: {problem}")

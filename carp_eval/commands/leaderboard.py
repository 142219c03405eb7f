"""`carp leaderboard`: the results of many models in one table, and papers' rows beside them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carp_eval.commands import options

if TYPE_CHECKING:
    from carp_eval.report.found import Found

ROWS = 60


def leaderboard(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE]...",
            help="Folders of runs or results, result files, hf:USER/NAME\\[@REVISION], or what results call a model. "
            "Default: runs, sweeps and results, here.",
            show_default=False,
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", help="Only this metric, such as top1; repeatable. Default: each one's main ones."
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", metavar="KIND\\[@VARIANT]", help="Only results of this protocol."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("-d", "--dataset", metavar="DATASET", help="Only results on this data set.")
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            "--sort", metavar="WORDS", help="Column to sort by, by words of its name. Default: the first."
        ),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published/--no-published", help="Whether papers' rows stand beside ours.")
    ] = True,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Rows to print; files have them all.")] = ROWS,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write it as CSV too.")] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="Write it as Markdown too.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write it as a page too, that sorts.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Show all results of many models as one table, with intervals, and what papers published beside them.

    A number that is published of another variant of the protocol is marked †.
    """
    from carp_eval import files
    from carp_eval.cards import loading
    from carp_eval.commands import leaderboard_tables, tables
    from carp_eval.errors import UsageError
    from carp_eval.report import leaderboard as boards

    found = _found(sources or [])
    if not found:
        raise UsageError(
            "there is no result in runs, sweeps or results, here: make one with carp eval knn, or name a folder or "
            "hf:USER/NAME"
        )
    board = boards.board(
        found,
        loading.published() if published else [],
        metrics=metric or [],
        protocol=protocol,
        dataset=dataset,
        sort=sort,
    )
    if not board.columns:
        known = sorted({f"{r.protocol}@{r.variant} on {r.query_dataset}" for r in (f.result for f in found)})
        raise UsageError(f"none of {len(found)} results is left; there are: {', '.join(known[:12])}")
    if sort is not None and boards.sorted_by(board, sort) is None:
        raise UsageError(
            f"no column's name has {sort!r}; there are: {'; '.join(column.title for column in board.columns[:12])}"
        )
    written: list[Path] = []
    if csv is not None or markdown is not None:
        from carp_eval.report import leaderboard_files

        for path, write in ((csv, leaderboard_files.as_csv), (markdown, leaderboard_files.as_markdown)):
            if path is not None:
                files.write_text(path, write(board))
                written.append(path)
    if html is not None:
        from carp_eval.report import leaderboard_page

        leaderboard_page.write(board, html)
        written.append(html)
    leaderboard_tables.show(board, rows=rows, as_json=json)
    if not json:
        for path in written:
            tables.say(f"written to {path}")


def _found(sources: list[str]) -> "list[Found]":
    """Find results on this disk and, fetched, on the Hub."""
    from carp_eval.commands import tables
    from carp_eval.errors import UsageError
    from carp_eval.report import found

    told: set[str] = set()

    def unreadable(problem: str) -> None:
        if problem not in told:
            told.add(problem)
            tables.warn(f"left out: {problem}")

    here = tuple(source for source in sources if not _is_remote(source))
    results = found.results(here, unreadable=unreadable) if here or not sources else []
    for source in sources:
        if not _is_remote(source):
            continue
        from carp_eval.commands import progress
        from carp_eval.report import fetched

        with progress.bars(in_bytes=True) as bar:
            folder = fetched.results_of(source, progress=bar(source))
        of_source = found.results((str(folder),), unreadable=unreadable)
        if not of_source:
            raise UsageError(f"{source} holds no result that can be read")
        results += of_source
    unique = {each.path.resolve(): each for each in results}
    return sorted(unique.values(), key=lambda each: (each.result.finished, each.path.name), reverse=True)


def _is_remote(source: str) -> bool:
    return source.startswith("hf:") and not Path(source.removeprefix("hf:")).expanduser().is_dir()

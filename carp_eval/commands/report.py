"""`carp report`: one page of all that was measured."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from carp_eval.commands import options

Models = Annotated[
    list[str] | None,
    typer.Option(
        "-m",
        "--model",
        metavar="MODEL",
        help="A run folder, a folder of results, a result's file, or a model's name in results; repeat for several. "
        "Default: every result and run below runs, sweeps and results.",
    ),
]


class MapKind(StrEnum):
    """How a map is drawn."""

    UMAP = "umap"
    PCA = "pca"


def report(
    model: Models = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The page; it ends in .html.")
    ] = Path("report.html"),
    points: Annotated[int, typer.Option("--points", min=3, help="Points of a map, at most.")] = 20_000,
    map_: Annotated[
        MapKind | None,
        typer.Option(
            "--map",
            help="How maps are drawn: by UMAP, a minute for 20,000 points, or on principal components, at once. "
            "Default: UMAP where it is installed.",
            show_default=False,
        ),
    ] = None,
    data_root: options.DataRoot = None,
) -> None:
    """Write one HTML page that opens from the disk: scores beside published ones, curves, errors, neighbours, a map.

    Nothing is trained or extracted for it: pictures come from data sets, neighbours and maps from banks, as far as they
    are on this machine. What is missing is left out, and the page says so.
    """
    from carp_eval import files
    from carp_eval.errors import UsageError

    if output.suffix != ".html":
        raise UsageError(f"a report is an HTML page: {output} must end in .html")
    files.check_writable(output.parent)

    from carp_eval.commands import progress, tables
    from carp_eval.evaluation.job import Settings
    from carp_eval.report import gathering, plane, writing

    if map_ is MapKind.UMAP and not plane.umap_is_there():
        raise UsageError("UMAP is not installed: pip install 'carp-eval[report]', or say --map pca")
    unreadable: list[str] = []
    found, runs = gathering.gather(model or [], unreadable=unreadable.append)
    with progress.bars() as bars:
        written = writing.write(
            found,
            output,
            runs=runs,
            unreadable=unreadable,
            settings=Settings(data_root=data_root, progress=bars),
            points=points,
            umap=map_ is not MapKind.PCA,
        )
    for word in written.words:
        tables.warn(word)
    parts = ", ".join(written.parts).lower()
    tables.say(f"wrote {written.path} ({written.size / 1e6:.1f} MB): {len(found):,} results; {parts}")

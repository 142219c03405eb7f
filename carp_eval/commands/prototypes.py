"""`carp prototypes`: how a data set's images use the prototypes, and what each has gathered."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.bar import Bar
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from carp_eval.commands import options
from carp_eval.commands.assign import NumberOfSet, Preprocessing, named

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from carp_eval.evaluation.gathered import Gathered

BAR = 40


def prototypes(
    model: options.Model = None,
    dataset: options.Dataset = None,
    split: Annotated[
        list[str] | None,
        typer.Option("--split", help="Repeat for several. Default: train, or the only one."),
    ] = None,
    most: Annotated[
        int, typer.Option("--most", min=1, help="Show so many of the most used prototypes.")
    ] = 10,
    nearest: Annotated[
        int, typer.Option("--nearest", min=1, help="Show so many images of each of them, the surest first.")
    ] = 8,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="FOLDER",
            help="Write nearest.png, prototypes.parquet, prototypes.json and, with matplotlib, usage.png.",
        ),
    ] = None,
    number: NumberOfSet = 0,
    branch: options.Branch = None,
    card: Preprocessing = "knn@dino",
    data_root: options.DataRoot = None,
    device: options.Device = None,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = None,
    dtype: options.Dtype = options.DtypeChoice.float32,
    skip_bad: options.SkipBad = False,
    json: options.Json = False,
) -> None:
    """Show how the prototypes of a run are used: how many, how evenly, how purely, and by which images."""
    from carp_eval import distributed, files
    from carp_eval.cards import loading
    from carp_eval.checkpoints.prototypes import open_prototypes
    from carp_eval.commands import progress, tables
    from carp_eval.data import opening
    from carp_eval.data.preprocessing import for_model
    from carp_eval.evaluation import assignment, gathered
    from carp_eval.evaluation.job import Settings
    from carp_eval.report import prototype_folder

    if to is not None:
        files.check_writable(to)
    opened = open_prototypes(model, branch=options.branch_of(branch), number=number)
    preprocessing = for_model(loading.preprocessing(card), opened.model.input)
    source = opening.locate(named(dataset, opened.model.dataset), data_root=data_root)
    names = split or (["train"] if len(source.splits) > 1 else source.splits)
    splits = [source.open(name) for name in names]
    distributed.join()
    with progress.bars() as bars:
        settings = Settings(data_root, device, batch_size, workers, dtype.value, skip_bad, progress=bars)
        banks = [assignment.bank_of(opened, images, preprocessing, settings=settings) for images in splits]
    if distributed.is_main():
        found = gathered.gather([assignment.assignments(bank, opened) for bank in banks], opened)
        written = [] if to is None else prototype_folder.write(found, splits, to, most=most, nearest=nearest)
        title = f"{opened.model.name} on {source.name} ({', '.join(images.split for images in splits)})"
        if json:
            tables.show_mapping(found.describe(), title=title, as_json=True)
        else:
            _show(found, title=title, most=most)
            for path in written:
                tables.say(f"wrote {path}")
    distributed.leave()


def _show(found: "Gathered", *, title: str, most: int) -> None:
    from carp_eval.commands import tables

    _show_bars(found.bins(), title=f"{title}: prototypes by how many images they have")
    _show_most_used(found.rows(most), title=f"the {most} most used")
    summary = found.use
    tables.say(
        f"{summary.images:,} images on {summary.used:,} of {summary.prototypes:,} prototypes, {summary.empty:,} empty; "
        f"entropy {summary.entropy:.2f} nats, perplexity {summary.perplexity:,.1f}; mean confidence "
        f"{summary.confidence:.3f}"
    )
    if summary.purity is not None:
        tables.say(
            f"purity {summary.purity:.1%} of {summary.labelled:,} labelled images; with their labels shuffled "
            f"{summary.purity_by_chance:.1%}"
        )


def _show_bars(bins: "Mapping[str, int]", *, title: str) -> None:
    table = Table("images", "prototypes", "", title=escape(title), box=box.SIMPLE_HEAD, pad_edge=False)
    longest = max(bins.values(), default=1)
    for name, count in bins.items():
        table.add_row(name, f"{count:,}", Bar(longest, 0, count, width=BAR))
    Console().print(table)


def _show_most_used(rows: "Sequence[Mapping[str, str | int | float | None]]", *, title: str) -> None:
    table = Table(
        "prototype",
        "images",
        "",
        "confidence",
        "purity",
        "class",
        title=title,
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    longest = max((float(row["images"] or 0) for row in rows), default=1.0)
    for row in rows:
        purity, images = row["purity"], float(row["images"] or 0)
        table.add_row(
            str(row["prototype"]),
            f"{images:,.0f}",
            Bar(longest, 0, images, width=BAR),
            f"{row['confidence']:.3f}",
            "" if purity is None else f"{purity:.0%}",
            escape(str(row["class_name"] or "")),
        )
    Console().print(table)

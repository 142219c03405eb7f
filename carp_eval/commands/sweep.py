"""`carp sweep`: train a recipe with every choice of some values, and draw the table."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from carp_eval.commands import options, slurm

if TYPE_CHECKING:
    from carp_eval.commands.train_display import Display
    from carp_eval.pretrain.sweep import Sweep
    from carp_eval.pretrain.sweep_record import Entry, SweepRecord

EXIT_FAILED = 1
EXIT_STOPPED = 130


def sweep(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="A name from carp train --list, or a path ending in .toml."),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=A,B,C", help="Values to try of a key of the recipe, or one; repeatable."
        ),
    ] = None,
    evaluations: Annotated[
        list[str] | None,
        typer.Option("--eval", metavar="KIND@VARIANT", help="Judge each run by this protocol; repeatable."),
    ] = None,
    dataset: options.Dataset = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The sweep's folder. Default: sweeps/RECIPE+KEYS."),
    ] = None,
    data_root: options.DataRoot = None,
    device: options.Device = None,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = None,
    skip_bad: options.SkipBad = False,
    slurm_jobs: slurm.Slurm = False,
    slurm_set: slurm.SlurmSet = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
) -> None:
    """Train every choice of values one after another, judge each, and draw one table; sweep.json keeps it.

    Ctrl-C leaves checkpoints, and the same command goes on: what is done is not done again, and what has failed is
    tried again. More values may be added. --dry-run shows how it stands. Ends with 1 where an entry failed.
    """
    from carp_eval.evaluation.job import Settings
    from carp_eval.pretrain import grid
    from carp_eval.pretrain.sweep import Sweep, folder_for

    values = grid.parse(settings or [])
    if dataset is not None:
        values |= {"data.name": (options.quoted(dataset),)}
    wanted = Sweep(
        recipe,
        values,
        output or folder_for(recipe, values),
        tuple(dict.fromkeys(evaluations or [])),
        Settings(data_root, device, batch_size, workers, skip_bad=skip_bad),
    )
    wanted.check()
    told = slurm.parameters(asked=slurm_jobs, pairs=slurm_set)
    if dry_run:
        _show(wanted.stands(), as_json=json)
        return
    if slurm_jobs:
        _show(_submit(wanted, told), as_json=json)
        return
    _run(wanted)
    record = wanted.record()
    _show(record, as_json=json)
    states = {entry.state for entry in record.entries}
    if "stopped" in states:
        raise typer.Exit(EXIT_STOPPED)
    if "failed" in states:
        raise typer.Exit(EXIT_FAILED)


def _run(wanted: "Sweep") -> None:
    from carp_eval import distributed
    from carp_eval.pretrain.sweep_record import title

    distributed.join()
    total = len(wanted.entries())

    @contextmanager
    def within(entry: "Entry") -> "Generator[Display]":
        from carp_eval.commands import train_display

        with train_display.Display() as display:
            display.say(f"{title(entry, wanted.grid)}: {entry.folder}")
            yield display

    console = Console(stderr=True, soft_wrap=True, quiet=not distributed.is_main())
    try:
        for number, entry in enumerate(wanted.run(within), start=1):
            told = f": {entry.reason}" if entry.reason else ""
            style = "red" if entry.state == "failed" else None
            console.print(
                f"{number} of {total}, {title(entry, wanted.grid)}: {entry.state}{told}",
                style=style,
                markup=False,
                highlight=False,
            )
    except KeyboardInterrupt:
        console.print("stopped: what is finished is kept, and the same command goes on from there")
        raise typer.Exit(EXIT_STOPPED) from None


def _submit(wanted: "Sweep", parameters: dict[str, str]) -> "SweepRecord":
    from functools import partial

    from carp_eval.errors import UsageError
    from carp_eval.pretrain import slurm as cluster
    from carp_eval.pretrain.sweep_record import title

    entries = wanted.entries()
    numbers = [number for number, entry in enumerate(entries) if entry.folder and not wanted.is_done(entry)]
    cluster.check_installed()
    if numbers:
        # Before they start, and note what they do in the same place.
        for number in numbers:
            wanted.note(entries[number].model_copy(update={"state": "submitted", "reason": ""}))
        work = partial(slurm.run_entry, wanted)
        try:
            jobs = cluster.submit(
                work, numbers, folder=wanted.folder, name="carp-sweep", parameters=parameters
            )
        except UsageError:
            for number in numbers:
                wanted.note(entries[number])
            raise
        console = Console(stderr=True, soft_wrap=True)
        for number, job in zip(numbers, jobs, strict=True):
            console.print(f"job {job}: {title(entries[number], wanted.grid)}", markup=False, highlight=False)
    return wanted.stands()


def _show(record: "SweepRecord", *, as_json: bool) -> None:
    """Print a row for each entry: what it changes, and what came of it."""
    from carp_eval import distributed
    from carp_eval.commands import tables
    from carp_eval.pretrain.sweep_record import title

    if not distributed.is_main():
        return
    if as_json:
        print(record.model_dump_json(indent=2))
        return
    varied = [key for key, values in record.grid.items() if len(values) > 1]
    online = [name for name in ("student", "teacher") if any(name in entry.knn for entry in record.entries)]
    scores = _main(dict.fromkeys(name for entry in record.entries for name in entry.scores))
    rows = [
        {
            **{key: entry.changes[key] for key in varied},
            "loss": None if entry.loss is None else f"{entry.loss:.3f}",
            **{f"20-NN {name}": entry.knn.get(name) for name in online},
            **{name: entry.scores.get(name) for name in scores},
            "state": entry.state,
        }
        for entry in record.entries
    ]
    tables.show_rows(rows, title=f"{record.recipe}, {len(rows)} trainings", as_json=False)
    for entry in record.entries:
        if entry.reason:
            tables.say(f"{entry.state}: {title(entry, record.grid)}: {entry.reason}")


def _main(names: Iterable[str]) -> list[str]:
    """Leave out of a table what is of little news beside top-1; the record has it."""
    return [name for name in names if name.split()[1] not in ("top5", "mean_per_class")]

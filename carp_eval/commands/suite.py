"""`carp eval suite`: a list of evaluations, and one table."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from carp_eval.cards import shelf
from carp_eval.commands import options
from carp_eval.commands.protocol import settings_of, with_shared_options
from carp_eval.errors import UsageError

if TYPE_CHECKING:
    from carp_eval.cards.suite import SuiteCard
    from carp_eval.evaluation.job import Settings
    from carp_eval.evaluation.suite import Open
    from carp_eval.evaluation.suite_record import SuiteRecord
    from carp_eval.evaluation.suite_step import Step

EXIT_FAILED = 1


@with_shared_options(without=("queries",))
def suite(
    name: Annotated[
        str,
        typer.Argument(
            metavar="SUITE",
            help=f"{', '.join(shelf.names('protocols/suites'))}, or a card's path ending in .toml.",
        ),
    ],
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="PATTERN", help="Run entries of this kind, protocol or data set; repeatable."
        ),
    ] = None,
    every_checkpoint: Annotated[
        bool,
        typer.Option("--every-checkpoint", help="Judge each checkpoint that the run has kept, for a curve."),
    ] = False,
    **shared: Any,
) -> None:
    """Run a list of evaluations: what is done is kept, what fails is told at the end, and one table shows all.

    Ctrl-C keeps what is done, and the same command goes on from there. Ends with 1 where an entry failed.
    """
    from carp_eval import distributed
    from carp_eval.cards.suite import chosen
    from carp_eval.cards.suite import suite as read
    from carp_eval.checkpoints.opening import open_model
    from carp_eval.commands import suite_tables

    card = chosen(read(name), only or [])
    chosen_for_all: dict[str, Any] = {
        "dataset": shared["dataset"],
        "output": shared["output"],
        "seed": shared["seed"],
        "leaks": options.leaks(check=shared["leak_check"], drop=shared["drop_leaks"]),
    }
    distributed.join()
    records: list[SuiteRecord] = []
    for epoch, spelling in _models(shared["model"], every_checkpoint=every_checkpoint).items():
        opened = partial(open_model, spelling, branch=options.branch_of(shared["branch"]))
        found = _judge(
            name,
            card,
            lambda layer, at=opened: at(layer=layer),
            settings_of(shared),
            chosen_for_all,
            epoch=epoch,
            dry_run=shared["dry_run"],
        )
        records.append(found)
    if distributed.is_main():
        suite_tables.show(records, as_json=shared["json"], dry_run=shared["dry_run"])
    distributed.leave()
    if any(row.state == "failed" for found in records for row in found.rows):
        raise typer.Exit(EXIT_FAILED)


def _models(model: str | None, *, every_checkpoint: bool) -> dict[str, str | None]:
    """Return the spellings of the models to judge, by epoch; one without where it is the model alone."""
    from carp_eval.checkpoints import runs
    from carp_eval.evaluation.suite import checkpoints

    if not every_checkpoint:
        return {"": model}
    folder = runs.last_folder() if model is None else Path(model).expanduser()
    if not folder.is_dir():
        raise UsageError(f"--every-checkpoint judges the checkpoints of a run folder; {model} is none")
    return {epoch: str(path) for epoch, path in checkpoints(folder).items()}


def _judge(
    name: str,
    card: "SuiteCard",
    open_at: "Open",
    settings: "Settings",
    shared: dict[str, Any],
    *,
    epoch: str,
    dry_run: bool,
) -> "SuiteRecord":
    """Run a suite for one model, say what happens on the way, and write its record."""
    from carp_eval import distributed
    from carp_eval.commands import progress
    from carp_eval.evaluation import suite_record
    from carp_eval.evaluation.suite import Suite

    judged = Suite(card, open_at, settings=settings, **shared)
    planned = judged.plan(look_for_data=dry_run)
    if dry_run:
        return suite_record.record(name, judged, planned, checkpoint=epoch)
    whom = f", epoch {epoch}" if epoch else ""

    @contextmanager
    def within(step: "Step") -> "Generator[Settings]":
        _say(f"{step.title}{whom}")
        with progress.bars() as bars:
            yield replace(settings, progress=bars)

    for step in planned:
        if step.state == "done before":
            _say(f"{step.title}{whom}: done before, {step.path}")
    found = suite_record.record(name, judged, list(judged.run(planned, within=within)), checkpoint=epoch)
    distributed.on_main(lambda: suite_record.save(found, judged.folder))
    return found


def _say(text: str) -> None:
    """Print a line on standard error, where bars are."""
    from carp_eval import distributed

    if distributed.is_main():
        Console(stderr=True, soft_wrap=True).print(text, markup=False, highlight=False)

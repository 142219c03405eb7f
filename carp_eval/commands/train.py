"""`carp train`: train a recipe, or go on with a run."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from carp_eval.commands import options

EXIT_STOPPED = {"SIGINT": 130, "SIGTERM": 143}


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="[RECIPE]", help="A name from --list, or a path ending in .toml. Default: digits."
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe; repeatable."),
    ] = None,
    dataset: options.Dataset = None,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="RUN", help="Go on with this run; `last` is the newest.")
    ] = None,
    data_root: options.DataRoot = None,
    device: options.Device = None,
    workers: options.Workers = None,
    skip_bad: options.SkipBad = False,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder that holds the runs.")] = Path(
        "runs"
    ),
    preview_views: Annotated[
        Path | None,
        typer.Option("--preview-views", metavar="PNG", help="Draw some images and their views, and stop."),
    ] = None,
    list_recipes: Annotated[bool, typer.Option("--list", help="List the recipes, and stop.")] = False,
    dry_run: options.DryRun = False,
) -> None:
    """Train a model without labels.

    Without an argument, the small recipe on the embedded digits. Ctrl-C and SIGTERM leave a checkpoint, and
    `carp train --resume last` goes on from it as if nothing had happened.
    """
    if list_recipes:
        _list_recipes()
        return
    from carp_eval.commands import train_display
    from carp_eval.errors import UsageError
    from carp_eval.pretrain import start

    pairs: dict[str, str] = {}
    for change in changes or []:
        key, equals, value = change.partition("=")
        if not equals:
            raise UsageError(f"--set expects KEY=VALUE, as in --set schedule.epochs=5; got {change!r}")
        pairs[key.strip()] = value.strip()
    if dataset is not None:
        pairs["data.name"] = f'"{dataset}"'
    if resume is not None and (recipe is not None or pairs):
        raise UsageError("--resume goes on with a run's own recipe: leave RECIPE, --set and -d out")
    with train_display.Display() as display:
        plan = start.plan(
            recipe or "digits",
            changes=pairs,
            resume=resume,
            runs_root=output,
            data_root=data_root,
            device=device,
            num_workers=workers,
            skip_bad=skip_bad,
            display=display,
        )
        if preview_views is not None:
            start.preview(plan, preview_views)
            display.say(f"drew {preview_views}")
            return
        if dry_run:
            display.say(plan.recipe.model_dump_json(indent=2))
            return
        outcome = start.train(plan)
    if outcome.stopped_by is not None:
        sys.exit(EXIT_STOPPED[outcome.stopped_by.name])


def _list_recipes() -> None:
    from carp_eval.cards import loading
    from carp_eval.commands import tables

    cards = {name: loading.recipe(name) for name in loading.names(loading.RECIPES)}
    rows = [
        {"recipe": name, "what it is": card.summary, "expect": f"{card.expect.score} {card.expect.time}"}
        for name, card in cards.items()
    ]
    tables.show_rows(rows, title="Recipes: carp train NAME", as_json=False)

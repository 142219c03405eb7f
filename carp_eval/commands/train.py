"""`carp train`: train a recipe, or go on with a run."""

import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from carp_eval.commands import options, slurm, train_list


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
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            metavar="MODEL",
            help="Start from the trunk of this model, spelled as for -m; it must be the recipe's trunk exactly.",
        ),
    ] = None,
    freeze_trunk_epochs: Annotated[
        int | None,
        typer.Option(
            "--freeze-trunk-epochs", min=0, help="Keep that trunk as it is for so many epochs at the start."
        ),
    ] = None,
    checkpoint_activations: Annotated[
        bool,
        typer.Option(
            "--checkpoint-activations",
            help="Take less memory and more time: what the trunk's blocks compute is not kept but computed again. "
            "What is learnt is the same, so --resume allows it.",
        ),
    ] = False,
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
    patience: Annotated[
        float,
        typer.Option(
            min=0.01,
            metavar="MINUTES",
            help="How long several processes wait for one that does not answer, before the training ends.",
        ),
    ] = 30.0,
    slurm_job: slurm.Slurm = False,
    slurm_set: slurm.SlurmSet = None,
    list_recipes: Annotated[
        bool, typer.Option("--list", help="List the recipes whose name holds RECIPE, or all; stop.")
    ] = False,
    dry_run: options.DryRun = False,
) -> None:
    """Train a model without labels.

    Without an argument, the small recipe on the embedded digits. Ctrl-C and SIGTERM leave a checkpoint, and
    `carp train --resume last` goes on from it as if nothing had happened. Under torchrun several processes share
    the work; those that torchrun starts again after a crash go on with the run that they had begun.
    """
    if list_recipes:
        train_list.show(recipe)
        return
    from carp_eval import distributed
    from carp_eval.commands import train_display, train_signals
    from carp_eval.errors import UsageError
    from carp_eval.pretrain import start

    pairs: dict[str, str] = {}
    for change in changes or []:
        key, equals, value = change.partition("=")
        if not equals:
            raise UsageError(f"--set expects KEY=VALUE, as in --set schedule.epochs=5; got {change!r}")
        pairs[key.strip()] = value.strip()
    if dataset is not None:
        pairs["data.name"] = options.quoted(dataset)
    if init is not None:
        pairs["init.model"] = options.quoted(init)
    if freeze_trunk_epochs is not None:
        pairs["init.freeze_epochs"] = str(freeze_trunk_epochs)
    if checkpoint_activations:
        pairs["compute.checkpoint_activations"] = "true"
    if resume is not None and (recipe is not None or not all(key.startswith("compute.") for key in pairs)):
        raise UsageError(
            "--resume goes on with a run's own recipe: leave RECIPE, --set and -d out, and --init with what it brings; "
            "only --set compute.KEY may differ, which changes nothing of what is learnt"
        )
    told = slurm.parameters(asked=slurm_job, pairs=slurm_set)
    arguments: dict[str, Any] = {
        "recipe_name": recipe or "digits",
        "changes": pairs,
        "runs_root": output,
        "data_root": data_root,
        "device": device,
        "num_workers": workers,
        "skip_bad": skip_bad,
    }
    if slurm_job and not dry_run and preview_views is None:
        _submit(arguments, resume, told)
        return
    with (
        train_display.of_all(patience=timedelta(minutes=patience)) as display,
        train_signals.ending(display.say),
    ):
        plan = start.plan(**arguments, resume=resume, display=display)
        if preview_views is not None:
            distributed.on_main(lambda: start.preview(plan, preview_views))
            display.say(f"drew {preview_views}")
            return
        if dry_run:
            display.say(plan.recipe.model_dump_json(indent=2))
            return
        outcome = start.train(plan)
    if outcome.stopped_by is not None:
        sys.exit(train_signals.EXIT_STOPPED[outcome.stopped_by])


def _submit(arguments: dict[str, Any], resume: str | None, parameters: dict[str, str]) -> None:
    """Submit the training to a cluster, into a folder that is made now, or that of the run to go on with."""
    from functools import partial

    from carp_eval.cards import loading
    from carp_eval.checkpoints import runs
    from carp_eval.commands import tables
    from carp_eval.pretrain import slurm as cluster

    name, root = arguments["recipe_name"], arguments["runs_root"]
    # A broken recipe is told of now, not by a job.
    loading.recipe(name, arguments["changes"])
    cluster.check_installed()
    if resume is None:
        folder = runs.new_folder(Path(name).stem, root=root)
    else:
        folder = runs.last_begun(root=root) if resume == "last" else Path(resume).expanduser()
    (job,) = cluster.submit(
        partial(slurm.train_here, arguments),
        [folder],
        folder=folder,
        name="carp-train",
        parameters=parameters,
    )
    tables.say(f"job {job} trains in {folder}; its output: {folder / cluster.LOGS}")

"""`carp zoo import` and `carp zoo verify`: the door by which weights of others come in."""

from pathlib import Path
from typing import Annotated

import typer

from carp_eval.commands import options


def import_weights(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A checkpoint (.pth, .pt, .safetensors, an archive of one), or a run folder."
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="NAME",
            help="What to call it. A model of the zoo is read as its card says. Default: from the file's name.",
        ),
    ] = None,
    architecture: Annotated[
        str | None, typer.Option("--architecture", help="The trunk: resnet18, resnet50, resnet50w2 ...")
    ] = None,
    wrapper: Annotated[
        str | None,
        typer.Option("--wrapper", metavar="A.B", help="Keys that lead to the weights; '' is the top level."),
    ] = None,
    strip: Annotated[
        list[str] | None,
        typer.Option("--strip", metavar="PREFIX", help="Taken off names. Repeat for several."),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            "--drop",
            metavar="PATTERN",
            help="Names to leave out, once stripped: 'head.*'. Nothing else is left out then. Repeat for several.",
        ),
    ] = None,
    branch: Annotated[
        options.BranchChoice | None, typer.Option("--branch", help="Of two networks, keep this one alone.")
    ] = None,
    member: Annotated[
        str,
        typer.Option("--member", metavar="PATH", help="The file inside, if FILE is an archive of several."),
    ] = "",
    mean: Annotated[
        str | None,
        typer.Option("--mean", metavar="R,G,B", help="Default: ImageNet's. 0,0,0 for plain [0, 1]."),
    ] = None,
    std: Annotated[str | None, typer.Option("--std", metavar="R,G,B", help="Default: ImageNet's.")] = None,
    native_size: Annotated[
        int | None, typer.Option("--native-size", min=1, help="Side it was trained on. Default: 224.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("-d", "--dataset", help="What it was trained on. Default: imagenet.")
    ] = None,
    licence: Annotated[str, typer.Option("--licence", help="SPDX identifier of the weights' licence.")] = "",
    allow_untrained: Annotated[
        bool, typer.Option("--allow-untrained", help="Take weights as they were initialised.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a model of that name.")] = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Take a checkpoint that you have, whatever format it is in: it is recognised, tried, and kept as safetensors.

    Nothing in the file is run. What is kept is exactly the trunk, or the command says what is missing or too much.
    """
    from carp_eval.errors import UsageError

    told_mean, told_std = _numbers(mean, "--mean"), _numbers(std, "--std")

    from carp_eval.checkpoints import runs
    from carp_eval.checkpoints.recognising import importing
    from carp_eval.checkpoints.zoo import pulled, storing
    from carp_eval.commands import tables

    path = runs.checkpoint_path(file) if file.is_dir() else file
    told = importing.Told(
        name=name,
        architecture=architecture,
        wrapper=None if wrapper is None else tuple(filter(None, wrapper.split("."))),
        strip=tuple(strip or ()),
        drop=tuple(drop or ()),
        branch=options.branch_of(branch),
        member=member,
        mean=told_mean,
        std=told_std,
        native_size=native_size,
        licence=licence,
        dataset=dataset,
    )
    plan = importing.plan(path, told)
    if not json:
        tables.say(plan.found)
    if pulled.find(plan.name) is not None and not force and not dry_run:
        raise UsageError(
            f"{plan.name} is on this machine already: --force replaces it, --as keeps both under two names"
        )
    summary = {"name": plan.name, "architecture": plan.card.architecture, "found": plan.found}
    if dry_run:
        states = storing.read(plan.card, path, untrained=allow_untrained)
        entries = {each: len(state) for each, state in states.items()}
        if json:
            tables.show_mapping({**summary, "entries": entries}, title="", as_json=True)
        else:
            counted = ", ".join(
                f"{number} entries" + ("" if each == "single" else f" of the {each}")
                for each, number in entries.items()
            )
            tables.say(f"would become {plan.name}: {counted}, features tried; nothing was written")
        return
    stored = storing.add(plan.name, plan.card, path, source=str(path.resolve()), untrained=allow_untrained)
    if json:
        kept = stored.origin.model_dump(mode="json")
        tables.show_mapping({**summary, "folder": str(stored.folder), **kept}, title="", as_json=True)
        return
    tables.say(f"imported as {stored.name}, into {stored.folder}")
    for each, digest in stored.origin.branches.items():
        tables.say(f"  {each}: weights {digest[:16]}")
    tables.say(f"Score it with: carp eval knn -m {stored.name}")


def verify(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Default: every model on this machine.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Read every byte of the models on this machine again, and try their features."""
    from carp_eval.cards import loading
    from carp_eval.checkpoints.zoo import pulled, storing
    from carp_eval.commands import progress, tables
    from carp_eval.errors import CarpError, CheckpointError

    here = pulled.everything()
    for name in names or ():
        if name not in here:
            loading.checkpoint_card(name)
            raise CheckpointError(f"{name} is not on this machine: carp pull {name}")
    chosen = names or here
    rows: list[dict[str, object]] = []
    with progress.bars() as bars:
        tell = bars("models")
        for number, name in enumerate(chosen):
            tell(number, len(chosen))
            try:
                found = pulled.find(name)
                problems = storing.verify(found) if found else [f"{name} has gone meanwhile"]
                branches = list(found.origin.branches) if found else []
            except CarpError as error:
                problems, branches = [str(error)], []
            rows.append({"name": name, "branches": branches, "state": "; ".join(problems) or "whole"})
            tell(number + 1, len(chosen))
    if not rows and not json:
        tables.say("no model of others is on this machine yet: carp pull NAME, or carp zoo import FILE")
        return
    tables.show_rows(rows, title="models on this machine", as_json=json)
    bad = [str(row["name"]) for row in rows if row["state"] != "whole"]
    if bad:
        raise CheckpointError(
            f"{', '.join(bad)}: damaged, or not what the card says. Have it again: carp pull NAME --force, or carp zoo "
            "import FILE --force"
        )


def _numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    from carp_eval.errors import UsageError

    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.replace(" ", ",").split(",") if part)
    except ValueError as error:
        raise UsageError(
            f"{option} {text!r}: expected numbers with commas between them, such as 0.485,0.456,0.406"
        ) from error

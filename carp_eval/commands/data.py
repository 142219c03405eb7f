"""`carp data`: the data sets known by name."""

import json as jsonlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carp_eval.commands import options

if TYPE_CHECKING:
    from carp_eval.data.checking import Check, SplitCheck

app = typer.Typer(no_args_is_help=True, help="The data sets known by name.")

_METRICS = {"top1": "top-1", "mean_per_class": "mean per class", "map": "mAP"}


@app.command("list")
def list_datasets(
    name: Annotated[str | None, typer.Argument(help="One data set, told in full.")] = None,
    json: options.Json = False,
) -> None:
    """List the data sets known by name; of one, tell all: splits, licence, and how to get it."""
    from carp_eval.commands import tables
    from carp_eval.data import plugged
    from carp_eval.data.table import TABLE, how_to_get
    from carp_eval.errors import UnknownNameError

    brought = {} if name in TABLE else plugged.working(on_broken=lambda error: tables.warn(str(error)))
    known = {**{one: found.row for one, found in brought.items()}, **TABLE}
    if name is not None and name not in known:
        raise UnknownNameError("data set", name, known)
    full = {
        one: {
            "name": one,
            "shows": row.title,
            "splits": [f"{split} {size:,}" for split, size in row.splits.items()],
            "classes": row.num_classes or None,
            "pixels": row.image_size or "various",
            "metric": _METRICS[row.metric],
            "transfer": " / ".join(row.transfer_splits),
            "licence": row.licence,
            "homepage": row.homepage,
            "to get it": how_to_get(one) if one in TABLE else brought[one].how,
        }
        for one, row in known.items()
        if name in (None, one)
    }
    if name is not None:
        tables.show_mapping(full[name], title=f"-d {name}", as_json=json)
        return
    if json:
        tables.show_rows(list(full.values()), title="", as_json=True)
        return
    rows = [
        {
            "name": one,
            "images": _short(
                sum(row.splits[split] for split in row.splits if split != "trainval" or len(row.splits) == 2)
            ),
            "classes": row.num_classes or None,
            "shows": row.title,
        }
        for one, row in known.items()
    ]
    tables.show_rows(rows, title="Data sets known by name", as_json=False)
    tables.say("carp data list NAME: its splits, licence, and how to get it")
    tables.say("carp data check NAME: whether it is here, and whole")
    tables.say("-d also takes folder:PATH, images:PATH, hf:USER/NAME, hf:FOLDER, NAME:PATH")


@app.command("check")
def check_dataset(
    name: Annotated[str, typer.Argument(help="A name from `carp data list`.")],
    data_root: options.DataRoot = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every image, and list those that cannot be.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Count a data set's images and classes, and hash its files; exit code 1 if it is not whole."""
    from carp_eval.commands import progress, tables
    from carp_eval.data import checking

    with progress.bars() as bars:
        try:
            found = checking.check(name, data_root=data_root, decode=decode, progress=bars)
        except KeyboardInterrupt:
            tables.warn("stopped before all was looked at; nothing was changed")
            raise typer.Exit(130) from None
    if json:
        print(jsonlib.dumps({**asdict(found), "whole": found.whole}, indent=2, default=str))
    else:
        _show(found)
    raise typer.Exit(0 if found.whole else 1)


def _show(found: "Check") -> None:
    from carp_eval.commands import tables

    if not found.place:
        tables.say(found.how)
        return
    rows: list[dict[str, Any]] = [
        {
            "split": part.split,
            "images": f"{part.found:,} of {part.expected:,}",
            "classes": _classes(part),
            "": "whole" if part.whole else "NOT WHOLE",
        }
        for part in found.splits
    ]
    tables.show_rows(rows, title=f"{found.name} in {found.place}", as_json=False)
    for part in found.splits:
        if part.problem:
            tables.say(f"{part.split}: {part.problem}")
        for key in part.missing:
            tables.say(f"{part.split}: {key} is not there")
        for image in part.unreadable:
            tables.say(f"{part.split}: {image.key}: {image.reason}")
    for file in found.files:
        state = (
            "as it should be" if file.whole else f"has MD5 {file.found}, not {file.expected}: get it again"
        )
        tables.say(f"{file.path} {state}")
    tables.say(
        f"{found.name} is whole" if found.whole else f"{found.name} is not whole. To get it:\n{found.how}"
    )


def _classes(part: "SplitCheck") -> str:
    return (
        f"{part.classes:,} of {part.expected_classes:,}" if part.expected_classes else f"{part.classes or ''}"
    )


def _short(number: int) -> str:
    return f"{number:,}" if number < 1_000_000 else f"{number / 1e6:.2f} M"

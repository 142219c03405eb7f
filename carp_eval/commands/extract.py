"""`carp extract`: turn a data set into a memory bank."""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carp_eval.commands import options

if TYPE_CHECKING:
    from carp_eval.features.bank import Bank


class ViewsChoice(StrEnum):
    """How an image is seen."""

    plain = "plain"
    flip = "flip"


def extract(
    model: options.Model = None,
    dataset: options.Dataset = None,
    split: Annotated[
        list[str] | None,
        typer.Option("--split", help="Repeat for several. Default: train and test, or the only one."),
    ] = None,
    layer: Annotated[
        options.LayerChoice, typer.Option("--layer", help="Which output of the model.")
    ] = options.LayerChoice.pool,
    branch: options.Branch = None,
    card: Annotated[
        str,
        typer.Option("--preprocessing", metavar="CARD", help="Resize and crop as this protocol card says."),
    ] = "knn@dino",
    data_root: options.DataRoot = None,
    device: options.Device = None,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = None,
    dtype: options.Dtype = options.DtypeChoice.float16,
    bf16: Annotated[bool, typer.Option("--bf16", help="Run the network in bfloat16 autocast.")] = False,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile the network first, for a minute or so: faster on a GPU."),
    ] = False,
    views: Annotated[
        ViewsChoice,
        typer.Option(
            "--views", help="flip: a row is the mean of an image's and its mirror image's features."
        ),
    ] = ViewsChoice.plain,
    scales: Annotated[
        str,
        typer.Option(
            "--scales",
            metavar="LIST",
            help="Factors on the sides of the input, such as 0.7,1,1.4: a row is the mean over them.",
        ),
    ] = "1",
    profile: Annotated[
        bool, typer.Option("--profile", help="Show how fast each stage is, and which one bounds.")
    ] = False,
    skip_bad: options.SkipBad = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder that holds banks.")] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to",
            metavar="FILE",
            help="Write the features of all splits to one file too: .parquet; .npy, with keys and labels in a "
            "Parquet file beside it; or .npz, with all in it.",
        ),
    ] = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
) -> None:
    """Extract the features of a data set, once, into a bank that every protocol reads.

    Killed or stopped, the same command goes on at its next shard. Started several times, by torchrun or by hand, on one
    machine or on several with a common disk, each process makes a part of the shards, and those of one that died.
    --to writes a copy that other tools read.
    """
    from carp_eval.cards import loading
    from carp_eval.checkpoints.opening import open_model
    from carp_eval.commands import extract_profile, progress, tables
    from carp_eval.data import opening
    from carp_eval.data.preprocessing import for_model
    from carp_eval.data.skipping import SkippedImages
    from carp_eval.errors import UsageError
    from carp_eval.features import tables as written
    from carp_eval.features.extraction import running as extraction
    from carp_eval.features.extraction.forward import choose_device
    from carp_eval.features.extraction.profile import Profile
    from carp_eval.features.extraction.views import Views, seen

    seen_as = Views(flip=views is ViewsChoice.flip, scales=_scales(scales))
    if to is not None:
        written.check_path(to)
    opened = open_model(model, branch=options.branch_of(branch), layer=layer.value)
    # Before data are opened.
    choose_device(device)
    seen(opened, seen_as)
    dataset = dataset or opened.dataset
    if dataset is None:
        raise UsageError(f"{opened.name} does not say what it was trained on: name a data set with -d")
    preprocessing = for_model(loading.preprocessing(card), opened.input)
    source = opening.locate(dataset, data_root=data_root)
    names = split or (["train", "test"] if len(source.splits) > 1 else source.splits)
    splits = {name: source.open(name) for name in names}
    if dry_run:
        rows = [
            {
                "model": opened.name,
                "dataset": dataset,
                "split": name,
                "images": len(images),
                **preprocessing.describe(),
                "views": seen_as.number,
            }
            for name, images in splits.items()
        ]
        tables.show_rows(rows, title="would extract", as_json=json)
        return
    # The processes that torchrun has started form no group: each takes shards that are free, and waits for nobody that
    # may have died. The first one reports.
    reports = os.environ.get("RANK", "0") == "0"
    banks: list[Bank] = []
    rows: list[dict[str, object]] = []
    warnings: list[str] = []
    profiles: dict[str, Profile] = {}
    with progress.bars() as bars:
        for name, images in splits.items():
            skipped = SkippedImages() if skip_bad else None
            times = Profile() if profile else None
            bank = extraction.extract(
                opened,
                images,
                preprocessing,
                dtype=dtype.value,
                precision="bf16" if bf16 else "float32",
                views=seen_as,
                compiled=compiled,
                # Images that keep their shapes make no batch.
                batch_size=batch_size if preprocessing.gives_one_size else 1,
                num_workers=workers,
                device=device,
                bank_home=output,
                skip_bad=skipped,
                progress=bars(f"features of {name}"),
                profile=times,
            )
            banks.append(bank)
            rows.append(
                {
                    "split": name,
                    "rows": len(bank),
                    "dim": bank.dim,
                    "dtype": dtype.value,
                    "bank": str(bank.path),
                    **({} if times is None or not json else {"profile": times.describe()}),
                }
            )
            if times is not None:
                profiles[name] = times
            if skipped is not None and len(skipped):
                warnings.append(f"{name}: {skipped.describe()}")
        files = [] if to is None or not reports else written.write(banks, to)
    if not reports:
        return
    tables.show_rows(rows, title=f"{opened.name} on {dataset}", as_json=json)
    if not json:
        for name, times in profiles.items():
            extract_profile.show(times, name)
        for file in files:
            tables.say(f"wrote {file}")
    for warning in warnings:
        tables.warn(warning)


def _scales(text: str) -> tuple[float, ...]:
    """Read a list of factors."""
    from carp_eval.errors import UsageError

    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"--scales takes numbers with commas between, such as 0.7,1,1.4; got {text!r}"
        ) from error

"""`carp extract`: turn a data set into a memory bank."""

from pathlib import Path
from typing import Annotated

import typer

from carp_eval.commands import options


def extract(
    model: options.Model = None,
    dataset: options.Dataset = None,
    split: Annotated[
        list[str] | None, typer.Option("--split", help="Repeat for several. Default: train and test.")
    ] = None,
    layer: Annotated[
        options.LayerChoice, typer.Option("--layer", help="Which output of the model.")
    ] = options.LayerChoice.pool,
    branch: options.Branch = options.BranchChoice.teacher,
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
    skip_bad: options.SkipBad = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder that holds banks.")] = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
) -> None:
    """Extract the features of a data set, once, into a bank that every protocol reads.

    Killed or stopped, the same command goes on at its next shard.
    """
    from carp_eval import distributed
    from carp_eval.cards import loading
    from carp_eval.checkpoints.opening import open_model
    from carp_eval.commands import progress, tables
    from carp_eval.data import opening
    from carp_eval.data.preprocessing import for_model
    from carp_eval.data.skipping import SkippedImages
    from carp_eval.errors import UsageError
    from carp_eval.features import extraction

    opened = open_model(model, branch=branch.value, layer=layer.value)
    dataset = dataset or opened.dataset
    if dataset is None:
        raise UsageError(f"{opened.name} does not say what it was trained on: name a data set with -d")
    kind, at, name = card.partition("@")
    protocol = loading.protocol_card(kind, name) if at else loading.protocol_card("knn", card)
    preprocessing = for_model(protocol.preprocessing, opened.input)
    splits = {
        name: opening.open_images(dataset, name, data_root=data_root) for name in split or ["train", "test"]
    }
    if dry_run:
        rows = [
            {
                "model": opened.name,
                "dataset": dataset,
                "split": name,
                "images": len(images),
                **preprocessing.describe(),
            }
            for name, images in splits.items()
        ]
        tables.show_rows(rows, title="would extract", as_json=json)
        return
    distributed.join()
    rows: list[dict[str, object]] = []
    warnings: list[str] = []
    with progress.bars() as bars:
        for name, images in splits.items():
            skipped = SkippedImages() if skip_bad else None
            bank = extraction.extract(
                opened,
                images,
                preprocessing,
                dtype=dtype.value,
                precision="bf16" if bf16 else "float32",
                batch_size=batch_size,
                num_workers=workers,
                device=device,
                bank_home=output,
                skip_bad=skipped,
                progress=bars(f"features of {name}"),
            )
            rows.append(
                {
                    "split": name,
                    "rows": len(bank),
                    "dim": bank.dim,
                    "dtype": dtype.value,
                    "bank": str(bank.path),
                }
            )
            if skipped is not None and len(skipped):
                warnings.append(f"{name}: {skipped.describe()}")
    if distributed.is_main():
        tables.show_rows(rows, title=f"{opened.name} on {dataset}", as_json=json)
        for warning in warnings:
            tables.warn(warning)
    distributed.leave()

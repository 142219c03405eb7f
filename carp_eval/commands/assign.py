"""`carp assign`: to which prototypes images belong."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from carp_eval.commands import options

if TYPE_CHECKING:
    from collections.abc import Mapping

    from carp_eval.data.images import Images

NumberOfSet = Annotated[
    int,
    typer.Option(
        "--prototype-set", min=0, help="Which set, of a method that learns several. Default: the first."
    ),
]
Preprocessing = Annotated[
    str, typer.Option("--preprocessing", metavar="CARD", help="Resize and crop as this protocol card says.")
]


def assign(
    model: options.Model = None,
    dataset: options.Dataset = None,
    split: Annotated[
        list[str] | None,
        typer.Option("--split", help="Repeat for several. Default: train and test, or the only one."),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE", help="The Parquet file. Default: assignments.parquet."),
    ] = None,
    top: Annotated[
        int, typer.Option("--top", min=1, help="So many prototypes of each image, the nearest first.")
    ] = 1,
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
    """Assign each image of a data set to a trained prototype, seen in training or not.

    Writes a table of key, split, label, prototype and confidence: the share of the softmax over all prototypes. The
    model is a run of a method with prototypes: CARP, CARL, SwAV, DeepCluster-v2, SeLa-v2.
    """
    from carp_eval import distributed, files
    from carp_eval.cards import loading
    from carp_eval.checkpoints.prototypes import open_prototypes
    from carp_eval.commands import progress, tables
    from carp_eval.data import opening
    from carp_eval.data.preprocessing import for_model
    from carp_eval.errors import UsageError
    from carp_eval.evaluation import assignment
    from carp_eval.evaluation.job import Settings

    path = to or Path("assignments.parquet")
    if path.suffix != ".parquet":
        raise UsageError(f"{path} must end in .parquet, the format it is written in")
    files.check_writable(path.parent)
    opened = open_prototypes(model, branch=options.branch_of(branch), number=number)
    assignment.check_places(opened, top)
    preprocessing = for_model(loading.preprocessing(card), opened.model.input)
    source = opening.locate(named(dataset, opened.model.dataset), data_root=data_root)
    names = split or (["train", "test"] if len(source.splits) > 1 else source.splits)
    splits: Mapping[str, Images] = {name: source.open(name) for name in names}
    distributed.join()
    with progress.bars() as bars:
        settings = Settings(data_root, device, batch_size, workers, dtype.value, skip_bad, progress=bars)
        banks = [
            assignment.bank_of(opened, images, preprocessing, settings=settings) for images in splits.values()
        ]
    if distributed.is_main():
        found = [assignment.assignments(bank, opened, places=top) for bank in banks]
        assignment.write(found, opened, path)
        rows = [
            {
                "split": part.bank.record.split,
                "images": len(part.bank),
                "prototypes": len(opened),
                "used": len(set(part.prototypes[:, 0].tolist())),
                "mean confidence": float(part.confidences[:, 0].mean(dtype="float64")),
                "skipped": len(part.bank.skipped),
                "file": str(path),
            }
            for part in found
        ]
        tables.show_rows(rows, title=f"{opened.model.name}: assignments of {source.name}", as_json=json)
    distributed.leave()


def named(dataset: str | None, own: str | None) -> str:
    """Return the data set that is meant: the one that was named, or the model's own.

    Raises:
        UsageError: If there is neither.
    """
    from carp_eval.errors import UsageError

    found = dataset or own
    if found is None:
        raise UsageError("the model does not say what it was trained on: name a data set with -d")
    return found

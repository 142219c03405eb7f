"""`carp export`: a model's trunk for other libraries."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from carp_eval.commands import options


def export(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What to write; its suffix must fit the target.")
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="TARGET", help="torchvision, timm, onnx, torch-export (.pt2) or detectron2."
        ),
    ],
    model: options.Model = None,
    branch: options.Branch = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            "--image-size",
            min=1,
            help="Side of the images that a traced network takes. Default: the model's own.",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option("--batch", min=1, help="Images in a batch of a traced network. Default: any number."),
    ] = None,
    opset: Annotated[int | None, typer.Option("--opset", min=1, help="ONNX's. Default: 18.")] = None,
    dtype: Annotated[
        options.DtypeChoice, typer.Option("--dtype", help="How weights are stored.")
    ] = options.DtypeChoice.float32,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    json: options.Json = False,
) -> None:
    """Write a model's trunk for another library, read it back as that library does, and compare features.

    A file that does not give the model's features is not kept.
    """
    from carp_eval.checkpoints.export import targets

    # Before what takes seconds to import, and the model.
    targets.check(to, file, force=force, batch=batch, opset=opset)

    from carp_eval.checkpoints.export import writing
    from carp_eval.checkpoints.opening import open_model
    from carp_eval.commands import progress, tables

    opened = open_model(model, branch=options.branch_of(branch))
    with progress.bars() as bars:
        written = writing.export(
            opened,
            to,
            file,
            image_size=image_size,
            batch=batch,
            opset=opset,
            dtype=dtype.value,
            force=force,
            progress=bars(f"export to {to}"),
        )
    record = asdict(written)
    loading = record.pop("loading")
    told = record.pop("told")
    if json:
        tables.show_mapping({**record, **told, "loading": loading}, title="", as_json=True)
        return
    record["relative_difference"] = f"{written.relative_difference:.1e}"
    record["mean"], record["std"] = (
        " ".join(f"{value:.6g}" for value in values) for values in (written.mean, written.std)
    )
    tables.show_mapping({"model": opened.name, **record, **told}, title=f"export to {to}", as_json=False)
    tables.say(loading)

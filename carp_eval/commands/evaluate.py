"""`carp eval`: score a model by a named protocol."""

from typing import Annotated, Any

import typer

from carp_eval.commands import options

app = typer.Typer(
    no_args_is_help=True,
    help="Score a model by a named protocol; features are extracted once and kept in a bank.",
)


@app.command()
def knn(
    k: Annotated[
        list[int] | None,
        typer.Option("--k", min=1, help="Neighbours; repeat for several. Default: the card's."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Softness of the vote. Default: the card's.")
    ] = None,
    variant: Annotated[
        str, typer.Option("--variant", help="dino, instdisc, swav, or a card's path ending in .toml.")
    ] = "dino",
    model: options.Model = None,
    dataset: options.Dataset = None,
    branch: options.Branch = options.BranchChoice.teacher,
    data_root: options.DataRoot = None,
    device: options.Device = None,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = None,
    dtype: options.Dtype = options.DtypeChoice.float16,
    skip_bad: options.SkipBad = False,
    output: options.Output = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
) -> None:
    """Classify test images by a weighted vote of their nearest neighbours in the bank."""
    changes: dict[str, Any] = {}
    if k:
        changes["k"] = sorted(set(k))
    if temperature is not None:
        changes["temperature"] = temperature
    _run("knn", variant, changes, **_shared(locals()))


@app.command()
def cluster(
    variant: Annotated[
        str, typer.Option("--variant", help="carp, or a card's path ending in .toml.")
    ] = "carp",
    clusters: Annotated[
        int | None, typer.Option("--clusters", min=2, help="Clusters. Default: the number of classes.")
    ] = None,
    restarts: Annotated[
        int | None, typer.Option("--restarts", min=1, help="Runs of k-means. Default: the card's.")
    ] = None,
    model: options.Model = None,
    dataset: options.Dataset = None,
    branch: options.Branch = options.BranchChoice.teacher,
    data_root: options.DataRoot = None,
    device: options.Device = None,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = None,
    dtype: options.Dtype = options.DtypeChoice.float16,
    skip_bad: options.SkipBad = False,
    output: options.Output = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
) -> None:
    """Cluster the bank by k-means and hold the test images' clusters against their classes."""
    chosen = {"clusters": clusters, "restarts": restarts}
    _run(
        "cluster",
        variant,
        {key: value for key, value in chosen.items() if value is not None},
        **_shared(locals()),
    )


@app.command()
def linear(
    variant: Annotated[
        str, typer.Option("--variant", help="cached-grid, logreg, or a card's path ending in .toml.")
    ] = "cached-grid",
    model: options.Model = None,
    dataset: options.Dataset = None,
    branch: options.Branch = options.BranchChoice.teacher,
    data_root: options.DataRoot = None,
    device: options.Device = None,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = None,
    dtype: options.Dtype = options.DtypeChoice.float16,
    skip_bad: options.SkipBad = False,
    output: options.Output = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
) -> None:
    """Train linear classifiers on the bank, choose on a held-out part of it, and score the test images."""
    _run("linear", variant, {}, **_shared(locals()))


@app.command()
def retrieval(
    k: Annotated[
        list[int] | None,
        typer.Option("--k", min=1, help="Where recall is looked at; repeatable. Default: the card's."),
    ] = None,
    variant: Annotated[
        str, typer.Option("--variant", help="classes, or a card's path ending in .toml.")
    ] = "classes",
    model: options.Model = None,
    dataset: options.Dataset = None,
    branch: options.Branch = options.BranchChoice.teacher,
    data_root: options.DataRoot = None,
    device: options.Device = None,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = None,
    dtype: options.Dtype = options.DtypeChoice.float16,
    skip_bad: options.SkipBad = False,
    output: options.Output = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
) -> None:
    """Rank the bank by similarity to each test image: how near the images of its class come."""
    _run("retrieval", variant, {"k": sorted(set(k))} if k else {}, **_shared(locals()))


@app.command()
def labelfree(
    variant: Annotated[
        str, typer.Option("--variant", help="rankme, or a card's path ending in .toml.")
    ] = "rankme",
    model: options.Model = None,
    dataset: options.Dataset = None,
    branch: options.Branch = options.BranchChoice.teacher,
    data_root: options.DataRoot = None,
    device: options.Device = None,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = None,
    dtype: options.Dtype = options.DtypeChoice.float16,
    skip_bad: options.SkipBad = False,
    output: options.Output = None,
    json: options.Json = False,
    dry_run: options.DryRun = False,
) -> None:
    """Judge features without labels: how many directions they span, and how evenly they spread."""
    _run("labelfree", variant, {}, **_shared(locals()))


SHARED = (
    "model",
    "dataset",
    "branch",
    "data_root",
    "device",
    "batch_size",
    "workers",
    "dtype",
    "skip_bad",
    "output",
    "json",
    "dry_run",
)


def _shared(arguments: dict[str, Any]) -> dict[str, Any]:
    """Pick the options that every protocol has from a command's arguments."""
    return {name: arguments[name] for name in SHARED}


def _run(kind: str, variant: str, changes: dict[str, Any], **shared: Any) -> None:
    """Run a protocol as the options say, and print its table."""
    from carp_eval.cards import loading
    from carp_eval.checkpoints.opening import open_model
    from carp_eval.commands import progress, scores
    from carp_eval.evaluation.running import Settings, evaluate

    card = loading.protocol_card(kind, variant, changes)
    model = open_model(shared["model"], branch=shared["branch"].value, layer=card.layer)
    if shared["dry_run"]:
        scores.show_plan(card, model, dataset=shared["dataset"] or model.dataset, as_json=shared["json"])
        return
    with progress.rows() as bars:
        settings = Settings(
            data_root=shared["data_root"],
            device=shared["device"],
            batch_size=shared["batch_size"],
            num_workers=shared["workers"],
            dtype=shared["dtype"].value,
            skip_bad=shared["skip_bad"],
            progress=bars,
        )
        record, path = evaluate(
            model, card, dataset=shared["dataset"], settings=settings, output=shared["output"]
        )
    scores.show(record, path, as_json=shared["json"])

"""`carp eval`: score a model by a named protocol."""

from typing import Annotated, Any

import typer

from carp_eval.commands.protocol import protocol

app = typer.Typer(
    no_args_is_help=True,
    help="Score a model by a named protocol; features are extracted once and kept in a bank.",
)


@app.command()
@protocol("knn", default="dino")
def knn(
    k: Annotated[
        list[int] | None,
        typer.Option("--k", min=1, help="Neighbours; repeat for several. Default: the card's."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Softness of the vote. Default: the card's.")
    ] = None,
) -> dict[str, Any]:
    """Classify test images by a weighted vote of their nearest neighbours in the bank."""
    return _said(k=sorted(set(k or [])), temperature=temperature)


@app.command()
@protocol("cluster", default="carp")
def cluster(
    clusters: Annotated[
        int | None, typer.Option("--clusters", min=2, help="Clusters. Default: the number of classes.")
    ] = None,
    restarts: Annotated[
        int | None, typer.Option("--restarts", min=1, help="Runs of k-means. Default: the card's.")
    ] = None,
) -> dict[str, Any]:
    """Cluster the bank by k-means and hold the test images' clusters against their classes."""
    return _said(clusters=clusters, restarts=restarts)


@app.command()
@protocol("linear", default="cached-grid")
def linear() -> dict[str, Any]:
    """Train linear classifiers on the bank, choose on a held-out part of it, and score the test images."""
    return {}


@app.command()
@protocol("retrieval", default="classes")
def retrieval(
    k: Annotated[
        list[int] | None,
        typer.Option("--k", min=1, help="Where recall is looked at; repeatable. Default: the card's."),
    ] = None,
) -> dict[str, Any]:
    """Rank the bank by similarity to each test image: how near the images of its class come."""
    return _said(k=sorted(set(k or [])))


@app.command()
@protocol("labelfree", default="rankme")
def labelfree() -> dict[str, Any]:
    """Judge features without labels: how many directions they span, and how evenly they spread."""
    return {}


def _said(**options: Any) -> dict[str, Any]:
    """Return the options that were given: what was not, the card decides."""
    return {name: value for name, value in options.items() if value not in (None, [])}

"""`carp eval`: score a model by a named protocol."""

from pathlib import Path
from typing import Annotated, Any

import typer

from carp_eval.commands import options
from carp_eval.commands.plugged import WithPlugins
from carp_eval.commands.protocol import protocol
from carp_eval.commands.suite import suite
from carp_eval.errors import UsageError

Epochs = Annotated[
    int | None, typer.Option("--epochs", min=1, help="Passes over the images. Default: the card's.")
]
TrainBatch = Annotated[
    int | None, typer.Option("--train-batch", min=1, help="Images in a training step. Default: the card's.")
]
Fraction = Annotated[
    float | None, typer.Option("--fraction", help="Share of the labels to train on. Default: the card's.")
]
ImagesPerClass = Annotated[
    int | None,
    typer.Option("--images-per-class", min=1, help="Train on so many images of each class instead."),
]
TrunkRate = Annotated[
    float | None, typer.Option("--lr", help="Learning rate of the trunk, together with --head-lr.")
]
HeadRate = Annotated[
    float | None,
    typer.Option("--head-lr", help="Learning rate of the classification layer, together with --lr."),
]

app = typer.Typer(
    cls=WithPlugins,
    no_args_is_help=True,
    help="Score a model by a named protocol; features are extracted once and kept in a bank.",
)


app.command("suite")(suite)


@app.command()
@protocol("knn", default="dino", searches=True)
def knn(
    k: Annotated[
        list[int] | None,
        typer.Option("--k", min=1, help="Neighbours; repeat for several. Default: the card's."),
    ] = None,
    temperature: Annotated[
        list[float] | None,
        typer.Option("--temperature", help="Softness of the vote; repeat for a grid. Default: the card's."),
    ] = None,
    search: Annotated[
        options.SearchChoice | None,
        typer.Option(
            "--search",
            help="bf16 believes eight-bit products, which may miss a neighbour; approximate asks an index, which "
            "may miss some: the record says how many. Default: the card's.",
        ),
    ] = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="The same as --search approximate.")
    ] = False,
) -> dict[str, Any]:
    """Classify test images by a weighted vote of their nearest neighbours in the bank."""
    several = sorted(set(temperature or []))
    softness: dict[str, Any] = {"temperatures": several} if several else {}
    if len(several) == 1:
        # In place of several, too, where the card has those.
        softness = {"temperature": several[0], "temperatures": []}
    if approximate:
        if search not in (None, options.SearchChoice.approximate):
            raise UsageError(f"--approximate and --search {search.value} say two things: give one")
        search = options.SearchChoice.approximate
    return softness | _said(k=sorted(set(k or [])), search=None if search is None else search.value)


@app.command()
@protocol("cluster", default="carp", streams=True)
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
@protocol("copydays", default="carp")
def copydays(
    distractors: Annotated[
        str | None,
        typer.Option(
            "--distractors",
            metavar="DATASET",
            help="Data set of images to rank among the originals. Default: none; for copies, the rest of the data set.",
        ),
    ] = None,
    num_distractors: Annotated[
        int | None, typer.Option("--num-distractors", min=0, help="How many of them. Default: all.")
    ] = None,
    num_originals: Annotated[
        int | None,
        typer.Option("--num-originals", min=1, help="For copies: images to copy. Default: the card's."),
    ] = None,
    whitening: Annotated[
        str | None,
        typer.Option("--whitening", metavar="DATASET", help="Data set to whiten features on. Default: none."),
    ] = None,
    num_whitening: Annotated[
        int | None, typer.Option("--num-whitening", min=2, help="How many of its images. Default: all.")
    ] = None,
) -> dict[str, Any]:
    """Find the originals of edited copies: of Copydays' blocks or, as --variant copies, of any images."""
    return _said(
        distractors=distractors,
        num_distractors=num_distractors,
        num_originals=num_originals,
        whitening=whitening,
        num_whitening=num_whitening,
    )


@app.command()
@protocol("linear", default="cached-grid", streams=True)
def linear(
    epochs: Epochs = None,
    lr: Annotated[
        float | None, typer.Option("--lr", help="Learning rate, of variants with one. Default: the card's.")
    ] = None,
    train_batch: TrainBatch = None,
) -> dict[str, Any]:
    """Train a linear classifier, on the bank or on random crops through the frozen trunk, and score the test images."""
    return _said(epochs=epochs, learning_rate=lr, batch_size=train_batch)


@app.command()
@protocol("retrieval", default="classes")
def retrieval(
    k: Annotated[
        list[int] | None,
        typer.Option(
            "--k", min=1, help="Where recall or precision is looked at; repeatable. Default: the card's."
        ),
    ] = None,
    pooling: Annotated[
        str | None, typer.Option("--pooling", help="gap, gem or rmac, for landmarks. Default: the card's.")
    ] = None,
    whitening: Annotated[
        str | None,
        typer.Option(
            "--whitening", help="Data set to learn whitening on, for landmarks. Default: the card's."
        ),
    ] = None,
) -> dict[str, Any]:
    """Rank the bank by similarity to each query: how near the images of its class, or of its landmark, come."""
    return _said(k=sorted(set(k or [])), pooling=pooling, whitening=whitening)


@app.command()
@protocol("fewshot", default="pcl")
def fewshot(
    n: Annotated[
        list[str] | None,
        typer.Option(
            "--n",
            help="Images of each class, or full for all; repeat for several. Default: the card's.",
        ),
    ] = None,
    draws: Annotated[
        int | None, typer.Option("--draws", min=1, help="How often images are drawn. Default: the card's.")
    ] = None,
) -> dict[str, Any]:
    """Classify test images by what is learnt from a few images of each class."""
    return _said(n=_amounts(n or []), draws=draws)


@app.command()
@protocol("finetune", default="carl")
def finetune(
    fraction: Fraction = None,
    images_per_class: ImagesPerClass = None,
    epochs: Epochs = None,
    lr: TrunkRate = None,
    head_lr: HeadRate = None,
    train_batch: TrainBatch = None,
) -> dict[str, Any]:
    """Train a copy of the trunk and a classification layer on the labels, and score the test images."""
    return _tuning(fraction, images_per_class, lr, head_lr) | _said(epochs=epochs, batch_size=train_batch)


@app.command()
@protocol("labelfree", default="rankme")
def labelfree() -> dict[str, Any]:
    """Judge features without labels: how many directions they span, and how evenly they spread."""
    return {}


@app.command()
@protocol("semisup", default="swav")
def semisup(
    fraction: Fraction = None,
    images_per_class: ImagesPerClass = None,
    image_list: Annotated[
        Path | None,
        typer.Option("--list", help="File that names the images to train on, a line each, such as SimCLR's."),
    ] = None,
    epochs: Epochs = None,
    lr: TrunkRate = None,
    head_lr: HeadRate = None,
    train_batch: TrainBatch = None,
) -> dict[str, Any]:
    """Train a copy of the trunk and a classification layer on few of the labels, and score the test images."""
    listed = {} if image_list is None else {"image_list": str(image_list)}
    tuning = _tuning(fraction, images_per_class, lr, head_lr)
    return tuning | listed | _said(epochs=epochs, batch_size=train_batch)


@app.command()
@protocol("voc07", default="pcl")
def voc07(
    c: Annotated[
        list[float] | None,
        typer.Option(
            "--C", help="C of the machines; of several, each class takes its own. Default: the card's."
        ),
    ] = None,
) -> dict[str, Any]:
    """Train a linear support vector machine for each class of VOC07: mean average precision."""
    return _said(costs=sorted(set(c or [])))


def _amounts(given: list[str]) -> list[int | str]:
    """Read numbers of images, ascending, and `full`, which takes all and comes last."""
    if wrong := [word for word in given if word != "full" and not (word.isdecimal() and int(word))]:
        raise UsageError(f"--n takes a number of images, 1 or more, or full; got {wrong[0]!r}")
    numbers = sorted({int(word) for word in given if word != "full"})
    return [*numbers, "full"] if "full" in given else [*numbers]


def _tuning(
    fraction: float | None, images_per_class: int | None, lr: float | None, head_lr: float | None
) -> dict[str, Any]:
    """Make changes of a card of fine-tuning: how much it trains on, and how fast."""
    if fraction is not None and images_per_class is not None:
        raise UsageError("--fraction and --images-per-class both say how much to train on: give one")
    if (lr is None) != (head_lr is None):
        raise UsageError(
            "a card's learning rates go together: give both --lr (trunk) and --head-lr, or neither"
        )
    changes: dict[str, Any] = {}
    if fraction is not None or images_per_class is not None:
        changes |= {"fraction": fraction, "images_per_class": images_per_class}
    if lr is not None:
        changes["rates"] = [{"trunk": lr, "head": head_lr}]
    return changes


def _said(**options: Any) -> dict[str, Any]:
    """Return the options that were given: what was not, the card decides."""
    return {name: value for name, value in options.items() if value not in (None, [])}

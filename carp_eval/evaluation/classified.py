"""What is told of images that a classifier has named: top-1, top-5 and the mean over classes, with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from carp_eval.data.images import Images
from carp_eval.errors import UsageError
from carp_eval.metrics import accuracy, bootstrap
from carp_eval.metrics.accuracy import PLACES
from carp_eval.metrics.bootstrap import Interval
from carp_eval.results import Score, Setting


def scores(
    ranking: Int64[np.ndarray, "query place"],
    labels: Int64[np.ndarray, " query"],
    *,
    num_classes: int,
    settings: Mapping[str, Setting],
    seed: int,
) -> tuple[Score, ...]:
    """Score a ranking of classes, in percent.

    Args:
        ranking: Each image's likeliest classes, the likeliest first.
        labels: Its class.
        num_classes: Classes there are.
        settings: What tells these numbers from others.
        seed: Of the bootstrap.

    Raises:
        UsageError: If an image has no label, or there is none.
    """
    found: list[Score] = []
    for metric, among in (("top1", 1), ("top5", PLACES)):
        right = accuracy.hits(ranking, labels, among=among)
        found.append(_score(metric, float(right.mean()), bootstrap.mean_interval(right, seed=seed), settings))
    predicted = ranking[:, 0]
    mean = accuracy.mean_per_class(predicted, labels, num_classes=num_classes)
    interval = bootstrap.mean_per_class_interval(predicted, labels, num_classes=num_classes, seed=seed)
    return (*found, _score("mean_per_class", mean, interval, settings))


def predictions(
    ranking: Int64[np.ndarray, "query place"], labels: Int64[np.ndarray, " query"], *, of: str = ""
) -> dict[str, Any]:
    """Return the columns of a record: what each image was taken for, and whether its class is among the first five.

    Args:
        ranking: Each image's likeliest classes, the likeliest first.
        labels: Its class.
        of: What tells the columns from others: `_n1`.
    """
    in_top5 = accuracy.hits(ranking, labels, among=PLACES)
    return {f"predicted{of}": ranking[:, 0], f"in_top5{of}": in_top5}


def check_labelled(train: Images, queries: Images) -> None:
    """Check that one split can teach the classes of another.

    Raises:
        UsageError: If there are fewer than two classes, the splits have different ones, or an image lacks a label.
    """
    if train.class_names != queries.class_names:
        raise UsageError(
            f"the splits {train.split} and {queries.split} of {train.name} have different classes: "
            f"{len(train.class_names)} and {len(queries.class_names)}"
        )
    if len(train.class_names) < 2:
        raise UsageError(
            f"a classifier tells classes apart and needs two or more, {train.name} has {len(train.class_names)}"
        )
    for images in (train, queries):
        without = int((images.labels < 0).sum())
        if without:
            raise UsageError(
                f"{without} of {len(images)} images of {images.name} ({images.split}) have no label: there is "
                f"nothing to learn from them or to score"
            )


def notes(class_names: Sequence[str], *, same_images: bool) -> list[str]:
    """Say what a reader of the scores must know."""
    told: list[str] = []
    if same_images:
        told.append("bank and queries are the same images: this is the accuracy on what was trained on")
    if len(class_names) == 1:
        told.append("there is one class: every answer is right, and the scores say nothing of the features")
    elif len(class_names) <= PLACES:
        told.append(f"top-5 says nothing with {len(class_names)} classes")
    return told


def _score(metric: str, share: float, interval: Interval, settings: Mapping[str, Setting]) -> Score:
    low, high = (end * 100 for end in interval)
    return Score(metric=metric, value=share * 100, low=low, high=high, settings=dict(settings))

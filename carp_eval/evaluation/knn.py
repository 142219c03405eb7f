"""Weighted k-nearest-neighbour classification.

A class scores the sum of exp(s / tau) over the neighbours of that class, where s is the similarity and tau
the temperature (Wu et al., CVPR 2018, section 3.4).
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor

from carp_eval.cards.knn import KnnCard
from carp_eval.errors import UsageError
from carp_eval.evaluation.outcome import Outcome
from carp_eval.features.bank import Bank
from carp_eval.features.rows import plain_rows, unit_rows
from carp_eval.features.search import CHUNK, search
from carp_eval.metrics import accuracy, bootstrap
from carp_eval.metrics.accuracy import PLACES, rank_classes
from carp_eval.results import Score


def vote(
    similarities: Float[Tensor, "query neighbour"],
    labels: Int[Tensor, "query neighbour"],
    *,
    num_classes: int,
    temperature: float = 0.07,
) -> Float[Tensor, "query class"]:
    """Score every class by the votes of each query's neighbours.

    Args:
        similarities: Similarity of each neighbour; the cosine for features of unit length.
        labels: Class of each neighbour, in [0, num_classes).
        num_classes: Classes in the protocol, which a small bank may not all show.
        temperature: Softness tau; the smaller, the more the nearest neighbour decides.

    Returns:
        The share of the vote each class won; a row sums to one.

    Raises:
        UsageError: If the temperature is not positive.
    """
    if temperature <= 0:
        raise UsageError(f"the temperature must be positive, got {temperature}")
    # Softmax, not exp: without unit length, similarities overflow exp; and a divisor per row moves no rank.
    weights = (similarities / temperature).softmax(dim=1)
    votes = weights.new_zeros(len(weights), num_classes)
    return votes.scatter_add_(dim=1, index=labels, src=weights)


def classify(
    bank: Float32[Tensor, "row dim"],
    labels: Int64[Tensor, " row"],
    queries: Float32[Tensor, "query dim"],
    *,
    k: Iterable[int],
    num_classes: int,
    temperature: float = 0.07,
    chunk: int = CHUNK,
    exclude_self: bool = False,
) -> dict[int, Int64[Tensor, "query place"]]:
    """Name each query's likeliest classes, for several numbers of neighbours from one search.

    Args:
        bank: The features that vote.
        labels: Their classes.
        queries: The features to classify.
        k: Numbers of neighbours.
        num_classes: Classes in the protocol.
        temperature: Softness of the vote.
        chunk: Queries in one pass over the bank; moves no result.
        exclude_self: Whether query i is row i of the bank, and has no vote for itself.

    Returns:
        For each k the classes in order, the likeliest first: five, but no more than there are classes or voters.

    Raises:
        UsageError: If there are fewer than k rows, or one has no label.
        BankError: If a feature is not finite.
    """
    numbers = sorted(set(k))
    unlabelled = int((labels < 0).sum())
    if unlabelled:
        raise UsageError(f"{unlabelled} of {len(labels)} rows of the bank have no label, and so no vote")
    near = search(bank, queries, k=numbers[-1], chunk=chunk, exclude_self=exclude_self)
    found: dict[int, list[Tensor]] = {number: [] for number in numbers}
    for similarities, indices in zip(near.similarities.split(CHUNK), near.indices.split(CHUNK), strict=True):
        classes = labels[indices]
        for number in numbers:
            votes = vote(
                similarities[:, :number],
                classes[:, :number],
                num_classes=num_classes,
                temperature=temperature,
            )
            found[number].append(rank_classes(votes, places=min(PLACES, num_classes, number)))
    return {number: torch.cat(parts) for number, parts in found.items()}


def run(card: KnnCard, bank: Bank, queries: Bank, seed: int) -> Outcome:
    """Classify the images of one bank by those of another.

    Args:
        card: The protocol.
        bank: Labelled images that vote.
        queries: Images to classify; where they are the bank itself, no image votes for itself.
        seed: Of the bootstrap.

    Raises:
        UsageError: If the bank has fewer rows than the largest k, or images lack labels.
        BankError: If the banks are of different models or settings, or a feature is not finite.
    """
    bank.check_comparable(queries)
    same = bank.fingerprint == queries.fingerprint
    rows = unit_rows if card.normalise else plain_rows
    num_classes = len(bank.class_names)
    ranking = classify(
        rows(bank.shards()),
        bank.labels,
        rows(queries.shards()),
        k=card.k,
        num_classes=num_classes,
        temperature=card.temperature,
        exclude_self=same,
    )
    labels = queries.labels.numpy()
    scores: list[Score] = []
    predictions: dict[str, object] = {}
    for k, named in ranking.items():
        classes = named.numpy()
        predicted = classes[:, 0]
        predictions[f"predicted_k{k}"] = predicted
        for metric, among in (("top1", 1), ("top5", PLACES)):
            right = accuracy.hits(classes, labels, among=among)
            low, high = bootstrap.mean_interval(right, seed=seed)
            scores.append(_score(metric, right.mean(), k, low=low * 100, high=high * 100))
        predictions[f"in_top5_k{k}"] = right
        mean = accuracy.mean_per_class(predicted, labels, num_classes=num_classes)
        scores.append(_score("mean_per_class", mean, k))
    return Outcome(
        scores=tuple(scores), predictions=predictions, notes=tuple(_notes(card.k, num_classes, same=same))
    )


def _score(
    metric: str, share: float, k: int, *, low: float | None = None, high: float | None = None
) -> Score:
    return Score(metric=metric, value=float(share) * 100, low=low, high=high, settings={"k": k})


def _notes(k: Sequence[int], num_classes: int, *, same: bool) -> list[str]:
    notes: list[str] = []
    if same:
        notes.append("bank and queries are the same images: no image voted for itself")
    if num_classes <= PLACES:
        notes.append(f"top-5 says nothing with {num_classes} classes")
    if min(k) < PLACES:
        notes.append(f"below k = {PLACES}, top-5 looks at no more classes than there are neighbours")
    return notes

"""Weighted k-nearest-neighbour classification.

A class scores the sum of exp(s / tau) over the neighbours of that class, where s is the similarity and tau
the temperature (Wu et al., CVPR 2018, section 3.4).
"""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from torch import Tensor

from carp_eval.cards.knn import KnnCard
from carp_eval.errors import UsageError
from carp_eval.evaluation import classified
from carp_eval.evaluation.answers import Answers, rank_among
from carp_eval.evaluation.job import Bar, no_bar
from carp_eval.evaluation.outcome import Outcome
from carp_eval.features.bank import Bank
from carp_eval.features.extraction.running import Progress
from carp_eval.features.indexes.index import Index
from carp_eval.features.rows import plain_rows, unit_rows
from carp_eval.features.search.in_memory import CHUNK, search
from carp_eval.features.search.neighbours import Neighbours
from carp_eval.features.search.overlap import measured_overlap
from carp_eval.features.search.streamed import Keeper, search_bank
from carp_eval.metrics.accuracy import PLACES
from carp_eval.results import Score, Setting


class Surface(NamedTuple):
    """What is named for several numbers of neighbours and several temperatures.

    Attributes:
        rankings: For each number and temperature the classes in order, the likeliest first: five, but no more than
            there are classes or voters.
        silent: For each number, the queries none of whose neighbours is of a class that may be named.
    """

    rankings: dict[tuple[int, float], Int64[Tensor, "_ _"]]
    silent: dict[int, int]


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
) -> dict[int, Int64[Tensor, "query _"]]:
    """Name each query's likeliest classes at one temperature, for each number of neighbours (see `surface`)."""
    found = surface(
        bank,
        labels,
        queries,
        k=k,
        temperatures=(temperature,),
        num_classes=num_classes,
        chunk=chunk,
        exclude_self=exclude_self,
    )
    return {number: ranking for (number, _), ranking in found.rankings.items()}


def surface(
    bank: Float32[Tensor, "row dim"],
    labels: Int64[Tensor, " row"],
    queries: Float32[Tensor, "query dim"],
    *,
    k: Iterable[int],
    temperatures: Iterable[float],
    num_classes: int,
    candidates: Int64[Tensor, " candidate"] | None = None,
    chunk: int = CHUNK,
    exclude_self: bool = False,
    progress: Progress | None = None,
) -> Surface:
    """Name each query's likeliest classes, for several numbers of neighbours and temperatures from one search.

    Args:
        bank: The features that vote.
        labels: Their classes.
        queries: The features to classify.
        k: Numbers of neighbours.
        temperatures: How soft the vote is.
        num_classes: Classes in the protocol.
        candidates: Classes that may be named, ascending: votes for others are lost. None for all.
        chunk: Queries in one pass over the bank; moves no result.
        exclude_self: Whether query i is row i of the bank, and has no vote for itself.
        progress: Is told of queries done, and of how many.

    Raises:
        UsageError: If there are fewer than k rows, one has no label, or a temperature is not positive.
        BankError: If a feature is not finite.
    """
    numbers = sorted(set(k))
    _check_labelled(labels)
    near = search(bank, queries, k=numbers[-1], chunk=chunk, exclude_self=exclude_self, progress=progress)
    return tally(
        near, labels, k=numbers, temperatures=temperatures, num_classes=num_classes, candidates=candidates
    )


def tally(
    near: Neighbours,
    labels: Int64[Tensor, " row"],
    *,
    k: Iterable[int],
    temperatures: Iterable[float],
    num_classes: int,
    candidates: Int64[Tensor, " candidate"] | None = None,
) -> Surface:
    """Name each query's likeliest classes by its neighbours, whatever found them.

    Args:
        near: The neighbours of each query: as many as the largest k.
        labels: Class of each row of the bank.
        k: Numbers of neighbours.
        temperatures: How soft the vote is.
        num_classes: Classes in the protocol.
        candidates: Classes that may be named, ascending; None for all.

    Raises:
        UsageError: If a temperature is not positive.
    """
    numbers, softness = sorted(set(k)), sorted(set(temperatures))
    found: dict[tuple[int, float], list[Tensor]] = {pair: [] for pair in product(numbers, softness)}
    silent = dict.fromkeys(numbers, 0)
    for similarities, indices in zip(near.similarities.split(CHUNK), near.indices.split(CHUNK), strict=True):
        classes = labels[indices]
        for number, temperature in found:
            votes = vote(
                similarities[:, :number],
                classes[:, :number],
                num_classes=num_classes,
                temperature=temperature,
            )
            found[number, temperature].append(rank_among(votes, candidates, places=min(PLACES, number)))
        if candidates is not None:
            heard = torch.isin(classes, candidates).int().cumsum(dim=1) > 0
            for number in numbers:
                silent[number] += int((~heard[:, number - 1]).sum())
    return Surface({pair: torch.cat(parts) for pair, parts in found.items()}, silent)


def run(
    card: KnnCard,
    bank: Bank,
    queries: Bank,
    seed: int,
    *,
    bar: Bar = no_bar,
    memory: int | None = None,
    device: torch.device | None = None,
    kept: Keeper | None = None,
) -> Outcome:
    """Classify the images of one bank by those of another.

    Args:
        card: The protocol.
        bank: Labelled images that vote.
        queries: Images to classify; where they are the bank itself, no image votes for itself.
        seed: Of the bootstrap.
        bar: Is told of queries done.
        memory: Bytes that the search may take; None is a quarter of what there is. It moves no score.
        device: Where a streamed search multiplies; None is the processor.
        kept: Keeps the state of a streamed search.

    Raises:
        UsageError: If the bank has fewer rows than the largest k, images lack labels, or the memory is too little.
        BankError: If the banks are of different models or settings, a feature is not finite, or there is no index to
            search by.
    """
    bank.check_comparable(queries)
    same = bank.fingerprint == queries.fingerprint
    answers = Answers.to(queries)
    _check_labelled(bank.labels)
    asked = (unit_rows if card.normalise else plain_rows)(queries.shards())
    if card.search == "approximate":
        near, how = _by_index(card, bank, asked, same=same, memory=memory, bar=bar)
    else:
        how = "" if card.search == "exact" else "neighbours were chosen by products in bf16"
        near = search_bank(
            bank,
            asked,
            k=max(card.k),
            normalise=card.normalise,
            memory=memory,
            precision=card.search,
            exclude_self=same,
            device=device or torch.device("cpu"),
            kept=kept,
            progress=bar("neighbours"),
        )
    notes: list[str] = []
    if how:
        share = measured_overlap(
            bank, asked, near, normalise=card.normalise, memory=memory, exclude_self=same, bar=bar("overlap")
        )
        notes.append(
            f"{how}: {share.right:.3%} of those of {share.queries} queries are those of an exact search"
        )
    found = tally(
        near,
        bank.labels,
        k=card.k,
        temperatures=card.temperatures or (card.temperature,),
        num_classes=len(bank.class_names),
        candidates=answers.candidates,
    )
    scores: list[Score] = []
    predictions: dict[str, np.ndarray] = {}
    for (k, temperature), ranking in found.rankings.items():
        # Published numbers are told by k alone.
        settings: dict[str, Setting] = {"k": k}
        suffix = f"_k{k}"
        if len(card.temperatures) > 1:
            settings["temperature"] = temperature
            suffix += f"_t{temperature:g}"
        named = ranking.numpy()
        scores += answers.scores(named, settings=settings, seed=seed)
        predictions |= answers.columns(named, suffix=suffix)
    return Outcome(
        scores=tuple(scores),
        predictions=predictions,
        notes=(
            *notes,
            *answers.notes(),
            *_notes(card, found, answers.of(bank.class_names), same=same),
        ),
    )


def _by_index(
    card: KnnCard,
    bank: Bank,
    queries: Float32[Tensor, "query dim"],
    *,
    same: bool,
    memory: int | None,
    bar: Bar,
) -> tuple[Neighbours, str]:
    """Search by the bank's index; also say how that was done."""
    if not card.normalise:
        raise UsageError(
            "an index has the order of the cosine, which is not that of features of any length: search exactly where "
            "normalise is false"
        )
    index = Index.open(bank)
    own = torch.arange(len(queries)) if same else None
    near = index.search(queries, k=max(card.k), own=own, memory=memory, progress=bar("neighbours"))
    recall = index.record.recall
    return near, (
        f"neighbours were found by an approximate index ({index.record.design.kind}, recall@{recall.k} "
        f"{recall.value:.4f} when it was made)"
    )


def _check_labelled(labels: Int64[Tensor, " row"]) -> None:
    unlabelled = int((labels < 0).sum())
    if unlabelled:
        raise UsageError(f"{unlabelled} of {len(labels)} rows of the bank have no label, and so no vote")


def _notes(card: KnnCard, found: Surface, names: Sequence[str], *, same: bool) -> list[str]:
    notes: list[str] = []
    if same:
        notes.append("bank and queries are the same images: no image voted for itself")
    notes += classified.notes(names, same_images=False)
    if min(card.k) < PLACES:
        notes.append(f"below k = {PLACES}, top-5 looks at no more classes than there are neighbours")
    if len(found.rankings) > len(card.k):
        notes.append(
            f"the best of {len(found.rankings)} pairs of k and temperature is chosen on the scored images: "
            "quote a pair that was fixed before"
        )
    silent = "; ".join(f"{count} at k = {k}" for k, count in found.silent.items() if count)
    if silent:
        notes.append(
            f"queries without a neighbour of a class that may be named, and so given the first of them: {silent}"
        )
    return notes

"""Retrieval of landmarks: a database ranked for each query by Revisited Oxford and Paris's rules."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64
from torch import Tensor

from carp_eval import distributed
from carp_eval.cards.retrieval import LandmarkRetrievalCard, SizeCard
from carp_eval.data import opening
from carp_eval.data.ground_truth import GroundTruth
from carp_eval.data.images import Images
from carp_eval.data.landmarks import DATABASE, LandmarkImages
from carp_eval.data.preprocessing import for_model
from carp_eval.errors import UsageError
from carp_eval.evaluation import kind_of_data
from carp_eval.evaluation.job import Job
from carp_eval.evaluation.outcome import Outcome
from carp_eval.features import whitening
from carp_eval.features.bank import Bank
from carp_eval.features.rows import unit_rows
from carp_eval.features.search.in_memory import CHUNK, search
from carp_eval.metrics import bootstrap, ranking
from carp_eval.metrics.ranking import Difficulty, Revisited
from carp_eval.models.pooling import pooled
from carp_eval.results import Score, Setting

DIFFICULTIES: tuple[Difficulty, ...] = ("easy", "medium", "hard")
# Of queries: below, an interval of mAP is mostly wider than what methods differ by.
FEW_QUERIES = 200


class Descriptors(NamedTuple):
    """Unit-length descriptors, ready to be compared.

    Attributes:
        database: Of the images that are ranked.
        queries: Of what they are ranked for.
        notes: What was done on the way.
    """

    database: Float32[Tensor, "row dim"]
    queries: Float32[Tensor, "query dim"]
    notes: tuple[str, ...] = ()


def run(job: Job) -> Outcome:
    """Rank the database for each query, and score the rankings at each difficulty.

    Raises:
        UsageError: If the data set has no ground truth of landmarks, the model no feature map, or there is nothing to
            find.
        CarpError: If data cannot be read or stored.
    """
    card = job.card
    assert isinstance(card, LandmarkRetrievalCard)
    size = _size(card, job.dataset)
    images = _landmarks(job)
    preprocessing = for_model(card.preprocessing.model_copy(update={"resize": size.resize}), job.model.input)
    extracted = partial(
        job.bank,
        model=pooled(
            job.model,
            pooling=card.pooling,
            p=card.p,
            levels=card.levels,
            scales=size.scales,
            per_scale_unit=card.per_scale_unit,
            scale_power=card.scale_power,
        ),
        preprocessing=preprocessing,
    )
    database = extracted(card.bank_split)
    # A crop is shrunk as its photograph would be: by itself, it would be shown larger than the database's images.
    shrunk = preprocessing.resize if preprocessing.side == "long" else None
    seen = images.of_photographs(shrunk) if card.crop_queries else images.whole()
    queries = extracted(card.query_split, images=seen)
    learnt_on = None
    if card.whitening is not None:
        learnt_on = extracted("whitening", images=_to_learn_on(card, card.whitening, job))
    settings: dict[str, Setting] = {"pooling": card.pooling, "resize": size.resize}
    if card.whitening is not None:
        settings["whitening"] = card.whitening

    def judge() -> Outcome:
        descriptors = Descriptors(unit_rows(database.shards()), unit_rows(queries.shards()))
        if learnt_on is not None:
            bar = job.bar("whitening")
            bar(0, 1)
            same = learnt_on.fingerprint == database.fingerprint
            descriptors = _whitened(card, descriptors, learnt_on, same=same)
            bar(1, 1)
        rankings = rank(descriptors.database, descriptors.queries, database.index)
        found = score(rankings, images.ground_truth, queries.index, k=card.k)
        scores = _scores(found, card.k, settings=settings, seed=job.seed)
        if not scores:
            raise UsageError(
                f"no query of {job.dataset} has an image to be found: look at {images.ground_truth.path}"
            )
        notes = _notes(job, card, images.ground_truth, database, queries, found)
        return Outcome(
            scores=tuple(scores),
            predictions=_columns(found, card.k),
            notes=(*notes, *descriptors.notes),
            counts={f"queries_{level}": int(of.judged.sum()) for level, of in found.items()},
        )

    return distributed.on_main(judge)


def rank(
    database: Float32[Tensor, "row dim"],
    queries: Float32[Tensor, "query dim"],
    numbers: Int64[Tensor, " row"],
    *,
    chunk: int = CHUNK,
) -> Int64[np.ndarray, "query row"]:
    """Rank the whole database for each query: similarity in float64 descending, then row ascending.

    Args:
        database: Descriptors of unit length.
        queries: Likewise.
        numbers: Of each row, its image's number in the database.
        chunk: Queries compared at a time; moves no image.

    Returns:
        Numbers of images, the nearest first.
    """
    return numbers[search(database, queries, k=len(database), chunk=chunk).indices].numpy()


def score(
    rankings: Int64[np.ndarray, "query row"],
    truth: GroundTruth,
    numbers: Int64[Tensor, " query"],
    *,
    k: Iterable[int],
) -> dict[Difficulty, Revisited]:
    """Score rankings at each difficulty.

    Args:
        rankings: Of each query, numbers of the database's images.
        truth: What shows what.
        numbers: Of each ranking, its query's number in the ground truth.
        k: Where precision is looked at.
    """
    found: dict[Difficulty, Revisited] = {}
    for level in DIFFICULTIES:
        sides = [
            ranking.by_difficulty(level, easy=query.easy, hard=query.hard, junk=query.junk)
            for query in (truth.queries[number] for number in numbers.tolist())
        ]
        positives, junk = [side[0] for side in sides], [side[1] for side in sides]
        found[level] = ranking.revisited(rankings, positives, junk, k=list(k))
    return found


def _size(card: LandmarkRetrievalCard, dataset: str) -> SizeCard:
    name = dataset.partition(":")[0]
    return card.sizes.get(name, SizeCard(resize=card.preprocessing.resize, scales=card.scales))


def _landmarks(job: Job) -> LandmarkImages:
    """Open the queries of a data set of landmarks."""
    images = kind_of_data.opened(
        job,
        job.card.query_split,
        fits=lambda images: isinstance(images, LandmarkImages),
        needed=f"retrieval@{job.card.variant} needs a ground truth of landmarks: say roxford5k, rparis6k, or "
        "landmarks:FOLDER for a folder in their layout; class retrieval, --variant classes, takes any labelled set",
    )
    assert isinstance(images, LandmarkImages)
    return images


def _to_learn_on(card: LandmarkRetrievalCard, dataset: str, job: Job) -> Images:
    source = opening.locate(dataset, data_root=job.settings.data_root)
    return source.open(card.whitening_split or (DATABASE if DATABASE in source.splits else "train"))


def _whitened(
    card: LandmarkRetrievalCard, descriptors: Descriptors, learnt_on: Bank, *, same: bool
) -> Descriptors:
    learnt = whitening.learn(unit_rows(learnt_on.shards()), components=card.whitening_components)
    dim, components = learnt.projection.shape
    notes = [
        f"whitened along {components} of {dim} axes, learnt on {learnt.learnt_on} images of {card.whitening}"
    ]
    if same:
        notes.append("these are the images that are searched: the benchmark's authors learn on others")
    if learnt.learnt_on <= dim:
        notes.append(f"{learnt.learnt_on} images are few for {dim} dimensions: whitening follows their noise")
    return Descriptors(
        whitening.whiten(descriptors.database, learnt),
        whitening.whiten(descriptors.queries, learnt),
        tuple(notes),
    )


def _scores(
    found: Mapping[Difficulty, Revisited], k: Iterable[int], *, settings: dict[str, Setting], seed: int
) -> list[Score]:
    """Summarise each difficulty for which some query has an image to be found."""
    scores: list[Score] = []
    judged = {level: of for level, of in found.items() if of.judged.any()}
    for level, of in judged.items():
        values = of.average_precision[of.judged]
        low, high = bootstrap.mean_interval(values, seed=seed)
        value = of.mean()[0] * 100
        scores.append(
            Score(metric=f"map_{level}", value=value, low=low * 100, high=high * 100, settings=settings)
        )
    for level, of in judged.items():
        for number, value, column in zip(k, of.mean()[1], of.precision.T, strict=True):
            low, high = bootstrap.mean_interval(column[of.judged], seed=seed)
            scores.append(
                Score(
                    metric=f"mp_{level}",
                    value=value * 100,
                    low=low * 100,
                    high=high * 100,
                    settings={"k": number},
                )
            )
    return scores


def _columns(found: Mapping[Difficulty, Revisited], k: Iterable[int]) -> dict[str, np.ndarray]:
    """Return what is told of each query; NaN where it has nothing to be found."""
    columns = {f"average_precision_{level}": of.average_precision for level, of in found.items()}
    for level, of in found.items():
        columns |= {
            f"precision_{level}_k{number}": column for number, column in zip(k, of.precision.T, strict=True)
        }
    return columns


def _notes(
    job: Job,
    card: LandmarkRetrievalCard,
    truth: GroundTruth,
    database: Bank,
    queries: Bank,
    found: Mapping[Difficulty, Revisited],
) -> list[str]:
    notes = [
        "queries were cropped to their boxes"
        if card.crop_queries
        else "queries were not cropped to their boxes, which the benchmark's authors require: its other numbers differ"
    ]
    if card.sizes and job.dataset.partition(":")[0] not in card.sizes:
        notes.append(
            f"the card has no size of its own for {job.dataset}: it was seen at {card.preprocessing.resize} pixels"
        )
    if len(queries) < FEW_QUERIES:
        notes.append(f"{len(queries)} queries are few: differences within the intervals say little")
    missing = len(truth.database) - len(database)
    if missing:
        notes.append(
            f"{missing} of {len(truth.database)} images of the database were skipped, and count as not found"
        )
    for level, of in found.items():
        without = int((~of.judged).sum())
        if without:
            notes.append(
                f"{level}: {without} of {len(queries)} queries have no image to be found, and were left out"
            )
    return notes

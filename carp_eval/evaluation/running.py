"""The one function that ties card, model and data: `evaluate`."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from carp_eval import distributed, results
from carp_eval.cards import loading
from carp_eval.cards.cluster import ClusterCard
from carp_eval.cards.knn import KnnCard
from carp_eval.cards.labelfree import LabelFreeCard
from carp_eval.cards.linear import CachedLinearCard, LogregCard
from carp_eval.cards.protocol import ProtocolCard
from carp_eval.cards.retrieval import RetrievalCard
from carp_eval.data.source import spellings
from carp_eval.errors import UsageError
from carp_eval.evaluation import cluster, knn, labelfree, linear, retrieval
from carp_eval.evaluation.job import DEFAULTS, Job, Settings
from carp_eval.evaluation.outcome import Outcome
from carp_eval.features.bank import Bank
from carp_eval.models.model import Model

# Runs a protocol. Of several processes each calls it, and each gets the same.
Runner = Callable[[Job], Outcome]
# Runs one that needs no more than two labelled banks, and a seed.
BankRunner = Callable[[Any, Bank, Bank, int], Outcome]


def on_banks(run: BankRunner) -> Runner:
    """Make a runner of a protocol that is judged on two labelled banks."""

    def runner(job: Job) -> Outcome:
        bank, queries = job.bank(job.card.bank_split), job.bank(job.card.query_split)
        if bank.class_names != queries.class_names:
            raise UsageError(
                f"the splits {job.card.bank_split} and {job.card.query_split} of {job.dataset} have different "
                f"classes: {len(bank.class_names)} and {len(queries.class_names)}"
            )
        return distributed.on_main(lambda: run(job.card, bank, queries, job.seed))

    return runner


RUNNERS: dict[type[ProtocolCard], Runner] = {
    CachedLinearCard: on_banks(linear.run),
    ClusterCard: on_banks(cluster.run),
    KnnCard: on_banks(knn.run),
    LabelFreeCard: on_banks(labelfree.run),
    LogregCard: on_banks(linear.run),
    RetrievalCard: on_banks(retrieval.run),
}


def evaluate(
    model: Model,
    card: ProtocolCard,
    *,
    dataset: str | None = None,
    settings: Settings = DEFAULTS,
    output: Path | None = None,
    seed: int = 0,
) -> tuple[results.Result, Path]:
    """Score a model by a protocol, and write the record.

    Args:
        model: The model, opened at the card's layer.
        card: The protocol.
        dataset: The data set; None is the one the model was trained on.
        settings: Where and how to run.
        output: Folder of the record; None is the model's run, or `results`.
        seed: Seed of whatever the protocol draws.

    Returns:
        The record, and where it was written.

    Raises:
        CarpError: If the data set is missing, or model, card and data do not fit.
    """
    started = time.perf_counter()
    if model.layer != card.layer:
        raise UsageError(
            f"{card.kind}@{card.variant} judges the layer {card.layer!r}; the model gives {model.layer!r}"
        )
    dataset = dataset or model.dataset
    if dataset is None:
        raise UsageError(f"{model.name} does not say what it was trained on: name a data set with -d")
    job = Job(card, model, dataset, settings=settings, seed=seed)
    outcome = RUNNERS[type(card)](job)
    record = results.Result(
        protocol=card.kind,
        variant=card.variant,
        card=card.model_dump(mode="json"),
        card_sha256=loading.fingerprint(card),
        model=model.name,
        branch=model.branch,
        layer=model.layer,
        weights_sha256=model.weights_sha256,
        dataset=dataset,
        bank_split=card.bank_split,
        query_split=card.query_split,
        data=job.manifests,
        banks={split: bank.fingerprint.sha256 for split, bank in job.banks.items()},
        preprocessing=job.preprocessing.describe(),
        counts={**_counts(job), **outcome.counts},
        notes=outcome.notes,
        scores=_beside_published(outcome, job),
        seed=seed,
        device=str(job.device),
        seconds=round(time.perf_counter() - started, 3),
        **results.circumstances(),
    )
    folder = output or (model.folder / "results" if model.folder is not None else Path("results"))
    predictions = _predictions(job, outcome.predictions)
    path = distributed.on_main(lambda: results.save(record, folder, predictions=predictions))
    job.unfinished().remove()
    return record, path


def _counts(job: Job) -> dict[str, int]:
    """Count the images of the card's two splits, their classes, and what was skipped."""
    counts: dict[str, int] = {}
    for name, split in (("bank", job.card.bank_split), ("queries", job.card.query_split)):
        if split in job.opened:
            counts[name] = len(job.banks.get(split, job.opened[split]))
            counts["classes"] = len(job.opened[split].class_names)
    if job.settings.skip_bad:
        counts["skipped"] = sum(len(bank.skipped) for bank in job.banks.values())
    return counts


def _beside_published(outcome: Outcome, job: Job) -> tuple[results.Score, ...]:
    # What was asked for as `test` may be a validation split: its own name is what documents call it.
    split = job.opened[job.card.query_split].split if job.card.query_split in job.opened else ""
    published_for = partial(
        results.published_for,
        loading.published(),
        model=job.model.name,
        protocol=job.card.kind,
        variant=job.card.variant,
        dataset=job.dataset,
        splits=spellings(split),
    )
    return tuple(score.model_copy(update={"published": published_for(score)}) for score in outcome.scores)


def _predictions(job: Job, found: Mapping[str, Any]) -> dict[str, Any]:
    """Put what tells an image before what was found of it."""
    split = job.card.query_split
    if split in job.banks:
        queries = job.banks[split]
        told = {"index": queries.index.numpy(), "key": queries.keys, "label": queries.labels.numpy()}
    elif split in job.opened:
        images = job.opened[split]
        numbers = range(len(images))
        told = {"index": np.array(numbers), "key": [images.key(i) for i in numbers], "label": images.labels}
    else:
        told = {}
    return {**told, **found}

"""The one function that ties card, model and data: `evaluate`."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from carp_eval import distributed, files, results
from carp_eval.cards import loading
from carp_eval.cards.protocol import ProtocolCard
from carp_eval.data.source import SPLIT_NAMES, spellings
from carp_eval.data.table import row_of
from carp_eval.errors import UsageError
from carp_eval.evaluation import kept_head
from carp_eval.evaluation.job import DEFAULTS, Job, Leaks, Settings
from carp_eval.evaluation.outcome import Outcome
from carp_eval.evaluation.runners import OnBanks, runner_of
from carp_eval.models.model import Model


def evaluate(
    model: Model,
    card: ProtocolCard,
    *,
    dataset: str | None = None,
    queries: str | None = None,
    leaks: Leaks = "count",
    settings: Settings = DEFAULTS,
    output: Path | None = None,
    seed: int = 0,
) -> tuple[results.Result, Path]:
    """Score a model by a protocol, and write the record.

    Args:
        model: The model, opened at the card's layer.
        card: The protocol.
        dataset: The data set; None is the one the model was trained on.
        queries: Another data set whose images are scored, of classes that the first has; None scores its own.
        leaks: Whether scored images that are near-duplicates of images to learn from are counted, left out, or not
            looked for.
        settings: Where and how to run.
        output: Folder of the record; None is the model's run, or `results`.
        seed: Seed of whatever the protocol draws.

    Returns:
        The record, and where it was written.

    Raises:
        CarpError: If the data set is missing, or model, card and data do not fit.
        StorageError: If the record cannot be written; what can be told of it beforehand is told before the work.
    """
    started = time.perf_counter()
    if model.layer != card.layer:
        raise UsageError(
            f"{card.kind}@{card.variant} judges the layer {card.layer!r}; the model gives {model.layer!r}"
        )
    dataset = dataset or model.dataset
    if dataset is None:
        raise UsageError(f"{model.name} does not say what it was trained on: name a data set with -d")
    card = for_dataset(card, dataset, queries)
    runner = runner_of(card)
    if queries is not None and not isinstance(runner, OnBanks):
        raise UsageError(
            f"{card.kind}@{card.variant} scores images of its own data set alone: leave --queries out"
        )
    folder = output or (model.folder / "results" if model.folder is not None else Path("results"))
    distributed.on_main(lambda: files.check_writable(folder))
    job = Job(card, model, dataset, settings=settings, seed=seed, queries=queries, leaks=leaks)
    outcome = runner(job)
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
        query_dataset=queries or dataset,
        bank_split=card.bank_split,
        query_split=card.query_split,
        dropped_leaks=leaks == "drop",
        data=job.manifests,
        banks={split: bank.fingerprint.sha256 for split, bank in job.banks.items()},
        preprocessing=_preprocessing(job),
        counts={**_counts(job), **outcome.counts},
        notes=model.notes + outcome.notes,
        scores=_beside_published(outcome, job),
        seed=seed,
        device=str(job.device),
        seconds=round(time.perf_counter() - started, 3),
        **results.circumstances(),
    )
    predictions = _predictions(job, outcome.predictions)
    head = None if outcome.head is None else kept_head.pack(outcome.head, record, _class_names(job))
    path = distributed.on_main(lambda: results.save(record, folder, predictions=predictions, head=head))
    job.unfinished().remove()
    return record, path


def _preprocessing(job: Job) -> dict[str, Any]:
    """Say how the scored images became input: as their bank has it, which may not be the card's way for all data."""
    bank = job.banks.get(job.card.query_split)
    return job.preprocessing.describe() if bank is None else bank.fingerprint.preprocessing


def for_dataset(card: ProtocolCard, dataset: str, queries: str | None = None) -> ProtocolCard:
    """Fill in the splits that a card leaves open: those that the field uses for the data set.

    Args:
        card: The protocol.
        dataset: The data set that is learnt from.
        queries: The data set whose images are scored; None for the same.
    """
    rows = {"bank_split": row_of(dataset), "query_split": row_of(queries or dataset)}
    own = {
        name: row.transfer_splits[number]
        for number, (name, row) in enumerate(rows.items())
        if row is not None and card.leaves_open(name)
    }
    return card.model_copy(update=own)


def _counts(job: Job) -> dict[str, int]:
    """Count the images of the card's two splits, their classes, and what was skipped."""
    counts: dict[str, int] = {}
    for name, split in (("bank", job.card.bank_split), ("queries", job.query_name)):
        if split in job.banks:
            counts[name] = len(job.banks[split])
        elif split in job.opened:
            counts[name] = len(job.opened[split]) - sum(of == split for of, _ in job.unread)
        if split in job.opened:
            counts.setdefault("classes", len(job.opened[split].class_names))
    if job.judged is not None:
        counts["queries"] = len(job.judged)
    if job.settings.skip_bad:
        banked = {(name, image.key) for name, bank in job.banks.items() for image in bank.skipped}
        counts["skipped"] = len(banked | job.unread)
    return counts


def _class_names(job: Job) -> tuple[str, ...]:
    return job.opened[job.card.bank_split].class_names


def _beside_published(outcome: Outcome, job: Job) -> tuple[results.Score, ...]:
    # What was asked for as `test` may be a validation split: its own name is what documents call it. Any other name is
    # documents' own: they call queries that were not cropped `query` too.
    split = job.opened[job.query_name].split if job.query_name in job.opened else ""
    asked = {job.card.query_split} - SPLIT_NAMES
    published_for = partial(
        results.published_for,
        loading.published(),
        models=job.model.names,
        protocol=job.card.kind,
        variant=job.card.variant,
        dataset=_called(job),
        splits=spellings(split) | asked,
    )
    return tuple(score.model_copy(update={"published": published_for(score)}) for score in outcome.scores)


def _called(job: Job) -> str:
    """Return what documents call the scored data set: its name, also of a copy elsewhere, if that is whole."""
    spelling = job.queries or job.dataset
    if row_of(spelling) is None or any(images.partial for images in job.opened.values()):
        return spelling
    return spelling.partition(":")[0]


def _predictions(job: Job, found: Mapping[str, Any]) -> dict[str, Any]:
    """Put what tells an image before what was found of it."""
    split = job.query_name
    queries = job.judged or job.banks.get(split)
    if queries is not None:
        told = {"index": queries.index.numpy(), "key": queries.keys, "label": queries.labels.numpy()}
    elif split in job.opened:
        images = job.opened[split]
        numbers = range(len(images))
        told = {"index": np.array(numbers), "key": [images.key(i) for i in numbers], "label": images.labels}
    else:
        told = {}
    return {**told, **found}

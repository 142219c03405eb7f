"""The one function that ties card, model and data: `evaluate`."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from carp_eval import results
from carp_eval.cards import loading
from carp_eval.cards.protocol import ProtocolCard
from carp_eval.data import opening
from carp_eval.data.preprocessing import Preprocessing, for_model
from carp_eval.data.skipping import SkippedImages
from carp_eval.errors import UsageError
from carp_eval.evaluation import cluster, knn, labelfree, linear, retrieval
from carp_eval.evaluation.outcome import Outcome
from carp_eval.features.bank import Bank, Dtype
from carp_eval.features.extraction import Progress, extract
from carp_eval.features.forward import choose_device
from carp_eval.models.model import Model

Runner = Callable[[Any, Bank, Bank, int], Outcome]

RUNNERS: dict[str, Runner] = {
    "knn": knn.run,
    "cluster": cluster.run,
    "labelfree": labelfree.run,
    "linear": linear.run,
    "retrieval": retrieval.run,
}


@dataclass(frozen=True)
class Settings:
    """What an evaluation needs beside card, model and data; nothing here may move a score.

    Attributes:
        data_root: Folder that holds named data sets.
        device: A torch device; None takes a GPU if there is one.
        batch_size: Images in a forward pass.
        num_workers: Processes that load images; None is from the cores.
        dtype: How banks store features.
        skip_bad: Whether unreadable images are counted and left out.
        bank_home: Folder that holds banks; None is `$CARP_HOME/banks`.
        progress: Is told of rows done; called once for each split, with its name, for the function to tell.
    """

    data_root: Path | None = None
    device: str | None = None
    batch_size: int = 64
    num_workers: int | None = None
    dtype: Dtype = "float16"
    skip_bad: bool = False
    bank_home: Path | None = None
    progress: Callable[[str], Progress] | None = None


DEFAULTS = Settings()


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
    preprocessing = for_model(card.preprocessing, model.input)
    skipped = SkippedImages() if settings.skip_bad else None
    bank, queries = (
        _bank(model, preprocessing, dataset, split, settings, skipped)
        for split in (card.bank_split, card.query_split)
    )
    if bank.class_names != queries.class_names:
        raise UsageError(
            f"the splits {card.bank_split} and {card.query_split} of {dataset} have different classes: "
            f"{len(bank.class_names)} and {len(queries.class_names)}"
        )
    outcome = RUNNERS[card.kind](card, bank, queries, seed)
    counts = {"bank": len(bank), "queries": len(queries), "classes": len(bank.class_names)}
    skips = {"skipped": len(bank.skipped) + len(queries.skipped)} if settings.skip_bad else {}
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
        bank_fingerprint=bank.fingerprint.sha256,
        query_fingerprint=queries.fingerprint.sha256,
        preprocessing=preprocessing.describe(),
        counts={**counts, **skips, **outcome.counts},
        notes=outcome.notes,
        scores=_beside_published(outcome, model, card, dataset),
        seed=seed,
        device=str(choose_device(settings.device)),
        seconds=round(time.perf_counter() - started, 3),
        **results.circumstances(),
    )
    folder = output or (model.folder / "results" if model.folder is not None else Path("results"))
    return record, results.save(record, folder, predictions=_predictions(queries, outcome.predictions))


def _bank(
    model: Model,
    preprocessing: Preprocessing,
    dataset: str,
    split: str,
    settings: Settings,
    skipped: SkippedImages | None,
) -> Bank:
    return extract(
        model,
        opening.open_images(dataset, split, data_root=settings.data_root),
        preprocessing,
        dtype=settings.dtype,
        batch_size=settings.batch_size,
        num_workers=settings.num_workers,
        device=settings.device,
        bank_home=settings.bank_home,
        skip_bad=skipped,
        progress=settings.progress(split) if settings.progress is not None else None,
    )


def _beside_published(
    outcome: Outcome, model: Model, card: ProtocolCard, dataset: str
) -> tuple[results.Score, ...]:
    tables = loading.published()
    return tuple(
        score.model_copy(
            update={
                "published": results.published_for(
                    tables,
                    score,
                    model=model.name,
                    protocol=card.kind,
                    variant=card.variant,
                    dataset=dataset,
                    split=card.query_split,
                )
            }
        )
        for score in outcome.scores
    )


def _predictions(queries: Bank, found: Mapping[str, Any]) -> dict[str, Any]:
    """Put what tells an image before what was found of it."""
    return {
        "index": queries.index.numpy(),
        "key": np.array(queries.keys),
        "label": queries.labels.numpy(),
        **found,
    }

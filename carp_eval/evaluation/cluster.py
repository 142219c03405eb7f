"""k-means on one split's features, the other split's images held against their classes."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Int64

from carp_eval import distributed
from carp_eval.cards.cluster import ClusterCard, LloydCard, MiniBatchCard
from carp_eval.data import subsets
from carp_eval.data.images import Images
from carp_eval.data.subset import Subset, draw
from carp_eval.errors import UsageError
from carp_eval.evaluation import few_labels, kmeans, kmeans_streamed, query_set, scaled
from carp_eval.evaluation.job import Job
from carp_eval.evaluation.kmeans import Clusters
from carp_eval.evaluation.outcome import Outcome
from carp_eval.evaluation.query_set import QuerySet
from carp_eval.evaluation.scaled import ScaledRows
from carp_eval.features import memory as memory_of
from carp_eval.features.bank import Bank
from carp_eval.features.extraction.running import Progress
from carp_eval.features.search.streamed import Keeper
from carp_eval.features.stored import ahead
from carp_eval.metrics import bootstrap, clustering
from carp_eval.results import Score

# FAISS warns below so many points per centre, into the terminal; here it is a note of the result.
FEW_POINTS = 39
# Scored images that are assigned at once.
ASSIGNED_ROWS = 8192


def run(job: Job) -> Outcome:
    """Cluster one split's features, or those of a share of it, and score the other split.

    Raises:
        CarpError: If the data do not fit the card, or a list of images is not there; see `judge`.
    """
    card = job.card
    assert isinstance(card, ClusterCard)
    whole = job.images(card.bank_split)
    part, chosen = (None, ()) if card.fit_share == 1 else _part(card, job, whole)
    scored, queries = job.images(card.query_split), job.bank(card.query_split)
    bank = job.bank(card.bank_split, images=part)
    if bank.class_names != queries.class_names:
        raise UsageError(
            f"the splits {card.bank_split} and {card.query_split} of {job.dataset} have different classes: "
            f"{len(bank.class_names)} and {len(queries.class_names)}"
        )
    asked = query_set.checked(job, QuerySet(queries, (), {}), whole if part is None else part, scored)
    job.judged = asked.bank
    bar = job.bar("k-means")
    outcome = distributed.on_main(
        lambda: judge(
            card,
            bank,
            asked.bank,
            seed=job.seed,
            progress=bar,
            memory=job.settings.memory,
            kept=job.unfinished(),
        )
    )
    notes = (*chosen, *outcome.notes, *asked.notes)
    return replace(outcome, notes=notes, counts={**outcome.counts, **asked.counts})


def judge(
    card: ClusterCard,
    bank: Bank,
    queries: Bank,
    *,
    seed: int,
    progress: Progress | None = None,
    memory: int | None = None,
    kept: Keeper | None = None,
) -> Outcome:
    """Fit k-means on one bank, assign the images of another, and compare with their classes.

    Args:
        card: The protocol.
        bank: The images that are clustered; their labels play no part.
        queries: The images that are scored.
        seed: Of k-means and the bootstrap.
        progress: Is told of iterations done.
        memory: Bytes that Lloyd's k-means may take; None is a quarter of what there is. Points that need more are read
            from disk at each iteration, which moves centres by rounding alone, as a note tells.
        kept: Keeps the state of Lloyd's k-means.

    Raises:
        UsageError: If there are fewer rows than clusters, images to score lack labels, or the memory is too little.
        BankError: If the banks are of different models or settings, or a feature is not finite.
    """
    bank.check_comparable(queries)
    clusters = card.clusters or len(bank.class_names)
    if not clusters:
        raise UsageError(
            f"{bank.record.dataset} has no classes, which clusters are held against; expected a folder for each class, "
            "or a column of labels. What needs no labels: carp eval labelfree"
        )
    kmeans.check(len(bank), clusters)
    if isinstance(card, MiniBatchCard):
        _check_memory(len(bank), bank.dim, memory)
    rows, asked = scaled.both(bank, queries, how="standardised" if card.standardise else "plain")
    how: list[str] = []
    match card:
        case LloydCard():
            budget = memory_of.default_budget() if memory is None else memory
            name = scaled.name_of(bank, card.model_dump(mode="json"), clusters, seed)
            found, how = _lloyd(
                card, rows, clusters, seed=seed, budget=budget, progress=progress, kept=kept, name=name
            )
        case MiniBatchCard():
            found = kmeans.fit_in_batches(
                rows.slab(0, len(rows)),
                clusters=clusters,
                batch_size=card.batch_size,
                max_epochs=card.max_epochs,
                restarts=card.restarts,
                seed=seed,
                progress=progress,
            )
        case _:
            raise AssertionError(f"no k-means of mode {card.mode}")
    assigned = np.concatenate(
        [kmeans.assign(part, found) for _, part in ahead(asked.slab, len(asked), at_once=ASSIGNED_ROWS)]
    )
    classes = queries.labels.numpy()
    right = clustering.matched(classes, assigned)
    return Outcome(
        scores=_scores(classes, assigned, right, seed=seed),
        predictions={"cluster": assigned, "matched": right},
        notes=(*how, *_notes(found, classes, same=bank.fingerprint == queries.fingerprint)),
        counts={
            "clusters": clusters,
            "fitted": found.points,
            "clusters_met": len(np.unique(assigned)),
            "iterations": found.iterations,
        },
    )


def _lloyd(
    card: LloydCard,
    rows: ScaledRows,
    clusters: int,
    *,
    seed: int,
    budget: int,
    progress: Progress | None,
    kept: Keeper | None,
    name: str,
) -> tuple[Clusters, list[str]]:
    """Fit in memory where the points fit, else from disk; say on what, and how."""
    notes: list[str] = []
    chosen = kmeans.drawn(len(rows), clusters=clusters, points_per_centre=card.points_per_centre, seed=seed)
    points = len(rows) if chosen is None else len(chosen)
    if chosen is not None:
        notes.append(
            f"k-means was fitted on {points} of {len(rows)} images, drawn by the seed {seed} as FAISS draws them: "
            f"{card.points_per_centre} for each of {clusters} clusters"
        )
    needed = kmeans.memory_of(
        points, dim=rows.dim, clusters=clusters, restarts=card.restarts, spherical=card.spherical
    )
    if needed <= budget:
        found = kmeans.fit(
            rows.slab(0, points) if chosen is None else rows.take(torch.from_numpy(chosen).long()),
            clusters=clusters,
            iterations=card.iterations,
            restarts=card.restarts,
            spherical=card.spherical,
            points_per_centre=0,
            seed=seed,
            progress=progress,
            kept=kept,
            name=name,
        )
        return found, notes
    at_once = kmeans_streamed.slab_rows(rows, clusters=clusters, restarts=card.restarts, budget=budget)
    found = kmeans_streamed.fit(
        rows,
        clusters=clusters,
        iterations=card.iterations,
        restarts=card.restarts,
        spherical=card.spherical,
        points_per_centre=card.points_per_centre,
        seed=seed,
        at_once=at_once,
        progress=progress,
        kept=kept,
        name=f"{name} from disk",
    )
    notes.append(
        f"{points} images of {rows.dim} dimensions are more than the memory that k-means may take: each iteration read "
        "them from disk, and centres may differ from those found in memory by rounding"
    )
    return found, notes


def _check_memory(rows: int, dim: int, memory: int | None) -> None:
    """Tell before the work if k-means on small batches, which needs all features at once, has not the memory."""
    scaled.check_in_memory(
        8 * rows * dim,
        memory=memory,
        what=f"k-means on small batches of {rows:,} images of {dim} dimensions",
        instead="take --variant carp, which reads features from disk where they are larger than memory",
    )


def _part(card: ClusterCard, job: Job, whole: Images) -> tuple[Subset, tuple[str, ...]]:
    """Choose the images that are clustered, and say which they are."""
    listed = few_labels.listed(job, whole, card.fit_share) if card.fit_list else None
    if listed is not None:
        numbers, told = listed
        part = Subset(whole, numbers, split=f"list of {card.fit_share:g} of {whole.split}")
        return part, (f"clustered were {told}",)
    part = _share_of(whole, card.fit_share, seed=job.seed)
    told = f"{len(part)} of {len(whole)} images of {card.bank_split} were clustered, {card.fit_share:.0%} of each class"
    no_list = f", drawn with the seed: the field has no list of {job.dataset}" if card.fit_list else ""
    return part, (told + no_list,)


def _share_of(whole: Images, share: float, *, seed: int) -> Subset:
    """Draw a share of each class; of images of which some have none, a share of all."""
    if (whole.labels < 0).any():
        count = max(1, round(len(whole) * share))
        chosen = np.sort(draw(count, of=len(whole), seed=seed, what="clustered"))
    else:
        chosen = subsets.share_of_each_class(whole.labels, share, seed=seed)
    return Subset(whole, chosen, split=f"{share:g} of {whole.split}")


def _scores(
    classes: Int64[np.ndarray, " image"],
    assigned: Int64[np.ndarray, " image"],
    right: Bool[np.ndarray, " image"],
    *,
    seed: int,
) -> tuple[Score, ...]:
    ends = clustering.intervals(classes, assigned, seed=seed)
    # The match is not made anew for each drawn test set: a better one would only raise its accuracy.
    ends["cluster_accuracy"] = bootstrap.mean_interval(right, seed=seed)
    values = clustering.agreement(classes, assigned) | {"cluster_accuracy": float(right.mean())}
    return tuple(
        Score(metric=metric, value=value * 100, low=ends[metric].low * 100, high=ends[metric].high * 100)
        for metric, value in values.items()
    )


def _notes(clusters: Clusters, classes: Int64[np.ndarray, " image"], *, same: bool) -> list[str]:
    count = len(clusters.centres)
    notes: list[str] = []
    if len(np.unique(classes)) == 1:
        notes.append(
            "all scored images are of one class: how clusters agree with classes says nothing of the features"
        )
    if same:
        notes.append("the images that were clustered are those that are scored")
    if clusters.points < FEW_POINTS * count:
        notes.append(
            f"{clusters.points} images for {count} clusters are few: below {FEW_POINTS} for each, k-means is unsteady"
        )
    return notes

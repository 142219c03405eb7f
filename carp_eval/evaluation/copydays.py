"""Copy detection: originals and distractors ranked by similarity to each copy; its original is the right one.

After the Copydays evaluation of DINO and CARP. A query has one right image, so its average precision by trapezoids is
1 if that comes first, and 1 / (2 place) if it comes later.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor, nn

from carp_eval import distributed
from carp_eval.cards.copydays import CopyDetectionCard
from carp_eval.data.images import Images
from carp_eval.errors import UsageError
from carp_eval.evaluation.copies import drawn, searched
from carp_eval.evaluation.job import Job
from carp_eval.evaluation.outcome import Outcome
from carp_eval.features import whitening
from carp_eval.features.bank import Bank
from carp_eval.features.rows import lengths, plain_rows, unit_rows
from carp_eval.metrics import bootstrap, ranking
from carp_eval.models.model import Model
from carp_eval.models.pooling import PooledTrunk, gap, gem, pooled
from carp_eval.results import Score

# Rows of the database compared at a time, in float64.
BLOCK_ROWS = 4096
# Of the product of lengths, as in class retrieval: images that are the same tie, in whatever order sums were made.
TOLERANCE = 1e-12


class Ranked(NamedTuple):
    """Where each query's original stands among all that is ranked.

    Attributes:
        above: How many are nearer to the query.
        level: How many are as near, the original among them.
        nearest: Row of the nearest; of equals one.
    """

    above: Int64[np.ndarray, " query"]
    level: Int64[np.ndarray, " query"]
    nearest: Int64[np.ndarray, " query"]


class Block(NamedTuple):
    """What was found of one block of copies; but for the first, of those whose original is in the database.

    Attributes:
        judged: Which those are.
        labels: Their originals.
        average_precision: Of each.
        ranked: Where its original stands.
    """

    judged: Bool[np.ndarray, " copy"]
    labels: Int64[np.ndarray, " query"]
    average_precision: Float64[np.ndarray, " query"]
    ranked: Ranked


def rank(
    database: Float32[Tensor, "row dim"],
    queries: Float32[Tensor, "query dim"],
    right: Int64[Tensor, " query"],
) -> Ranked:
    """Rank a database for each query by inner product, in float64, and see where the right row stands.

    Args:
        database: The rows that are ranked.
        queries: What they are ranked for.
        right: The row that each query looks for.

    Raises:
        BankError: If a feature is not finite.
    """
    wide = queries.double()
    tolerance = lengths(queries, "the queries").double() * lengths(database, "the database").max() * TOLERANCE
    own = (wide * database[right].double()).sum(dim=1)
    above, level, nearest = (torch.zeros(len(queries), dtype=torch.int64) for _ in range(3))
    best = torch.full_like(own, -torch.inf)
    for start in range(0, len(database), BLOCK_ROWS):
        similarities = wide @ database[start : start + BLOCK_ROWS].double().T
        beyond = similarities - own[:, None]
        above += (beyond > tolerance[:, None]).sum(dim=1)
        level += (beyond.abs() <= tolerance[:, None]).sum(dim=1)
        values, rows = similarities.max(dim=1)
        nearer = values > best
        best[nearer], nearest[nearer] = values[nearer], start + rows[nearer]
    return Ranked(above.numpy(), level.numpy(), nearest.numpy())


def average_precision(ranked: Ranked, *, places: int | None) -> Float64[np.ndarray, " query"]:
    """Return each query's average precision by trapezoids, the mean over every order of equals.

    Args:
        ranked: Where the originals stand.
        places: How many of a ranking count; None for all.
    """
    last = int((ranked.above + ranked.level).max(initial=1))
    by_place = np.zeros(last)
    for place in range(min(last, places or last)):
        by_place[place] = ranking.trapezoid_average_precision(np.array([place]), positives=1)
    summed = np.concatenate([[0.0], np.cumsum(by_place)])
    return (summed[ranked.above + ranked.level] - summed[ranked.above]) / ranked.level


def run(job: Job) -> Outcome:
    """Detect copies: mAP for each block of them.

    Raises:
        UsageError: If the data set has not what the card needs, or no copy has its original in the database.
        BankError: If a feature is not finite.
    """
    card = job.card
    assert isinstance(card, CopyDetectionCard)
    found = searched(job, card)
    model = job.model if card.descriptor == "pool" else side_by_side(job.model, power=card.gem_power)

    def bank(name: str, images: Images) -> Bank:
        return job.bank(name, model=model, images=images)

    originals = bank(card.bank_split, found.originals)
    distractors = bank("distractors", found.distractors) if found.distractors is not None else None
    blocks = {block: bank(block, images) for block, images in found.blocks.items()}
    learnt_on = None
    notes = list(found.notes)
    if card.descriptor == "pool+gem":
        notes.append(
            f"average pool and GeM (p = {card.gem_power:g}) side by side; DINO has a ViT's [CLS] and GeM"
        )
    if card.whitening is None:
        notes.append("features were not whitened")
    else:
        images = drawn(job, card.whitening, card.whitening_split, count=card.num_whitening, what="whitening")
        learnt_on = bank("whitening", images)
        notes.append(f"features were whitened on {len(learnt_on):,} images of {card.whitening}")
    return distributed.on_main(
        lambda: _outcome(card, originals, distractors, blocks, learnt_on, notes=notes, seed=job.seed)
    )


def side_by_side(model: Model, *, power: float) -> Model:
    """Return a model that gives the mean of the trunk's last feature map, and beside it the generalised mean.

    Args:
        model: The model, whose features are those of its trunk.
        power: Exponent of the generalised mean.

    Raises:
        UsageError: If the network has no such map.
    """
    generalised = pooled(model, pooling="gem", p=power)
    return replace(
        generalised,
        network=_SideBySide(cast(PooledTrunk, generalised.network), power=power),
        layer=f"gap beside gem {power!r}",
        feature_dim=2 * generalised.feature_dim,
    )


class _SideBySide(nn.Module):
    """One pass through a trunk for two poolings of its last feature map."""

    def __init__(self, trunk: PooledTrunk, *, power: float) -> None:
        super().__init__()
        self.trunk = trunk
        self._power = power

    def forward(self, images: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image dim"]:
        maps = self.trunk.feature_map(images).float()
        return torch.cat([gap(maps), gem(maps, p=self._power)], dim=1)


def _outcome(
    card: CopyDetectionCard,
    originals: Bank,
    distractors: Bank | None,
    blocks: Mapping[str, Bank],
    learnt_on: Bank | None,
    *,
    notes: Sequence[str],
    seed: int,
) -> Outcome:
    """Rank the database for every block, and put the scores together."""
    learnt = None if learnt_on is None else whitening.learn(plain_rows(learnt_on.shards()))

    def rows(bank: Bank) -> Tensor:
        return (
            unit_rows(bank.shards())
            if learnt is None
            else whitening.whiten(plain_rows(bank.shards()), learnt)
        )

    searched_banks = [originals] if distractors is None else [originals, distractors]
    database = torch.cat([rows(bank) for bank in searched_banks])
    row_of = torch.full((len(originals.class_names) + 1,), -1)
    # A copy of nothing has the label -1, and finds the last entry.
    row_of[originals.labels] = torch.arange(len(originals))
    found: dict[str, Block] = {}
    for name, bank in blocks.items():
        right = row_of[bank.labels]
        judged = right >= 0
        if judged.any():
            ranked = rank(database, rows(bank)[judged], right[judged])
            values = average_precision(ranked, places=card.places)
            found[name] = Block(judged.numpy(), bank.labels[judged].numpy(), values, ranked)
    if not found:
        raise UsageError("no copy has its original in the database: there is nothing to find")
    lost = sum(len(bank) for bank in blocks.values()) - sum(len(block.labels) for block in found.values())
    if lost:
        notes = (*notes, f"{lost} copies were left out: their originals are not in the database")
    tied = sum(int((block.ranked.level > 1).sum()) for block in found.values())
    if tied:
        notes = (
            *notes,
            f"{tied} copies are exactly as near to another image as to their original, which may be there twice: "
            "the mean over the orders of equals counts",
        )
    keys = [key for bank in searched_banks for key in bank.keys]
    return Outcome(
        scores=tuple(_scores(found, seed=seed)),
        predictions=_predictions(found, card.query_split, keys),
        notes=tuple(notes),
        counts={
            "distractors": len(database) - len(originals),
            "copies": sum(len(block.labels) for block in found.values()),
            **({} if learnt_on is None else {"whitened_on": len(learnt_on)}),
        },
    )


def _scores(found: Mapping[str, Block], *, seed: int) -> Iterator[Score]:
    """Yield mAP of each block, then its mean over the blocks of one kind of edit, and over all."""
    for name, block in found.items():
        low, high = bootstrap.mean_interval(block.average_precision, seed=seed)
        value = float(block.average_precision.mean()) * 100
        yield Score(metric="map", value=value, low=low * 100, high=high * 100, settings={"block": name})
    kinds: dict[str, list[Block]] = {}
    for name, block in found.items():
        kinds.setdefault(name.partition("-")[0], []).append(block)
    groups = {**kinds, "all": list(found.values())} if len(kinds) > 1 else kinds
    for kind, blocks in groups.items():
        if len(blocks) > 1:
            value = float(np.mean([block.average_precision.mean() for block in blocks])) * 100
            low, high = _interval(blocks, seed=seed)
            yield Score(metric="mean_map", value=value, low=low, high=high, settings={"blocks": kind})


def _interval(blocks: Sequence[Block], *, seed: int) -> tuple[float | None, float | None]:
    """Return an interval of a mean over blocks, originals being drawn; none unless each has one copy in every block."""
    copied = np.sort(blocks[0].labels)
    if len(np.unique(copied)) < len(copied) or any(
        not np.array_equal(np.sort(block.labels), copied) for block in blocks
    ):
        return None, None
    by_original = [block.average_precision[block.labels.argsort()] for block in blocks]
    low, high = bootstrap.mean_interval(np.mean(by_original, axis=0), seed=seed)
    return low * 100, high * 100


def _predictions(found: Mapping[str, Block], queries: str, keys: Sequence[str]) -> dict[str, Any]:
    """Return what was found of each image of the block that the card scores, and of other copies made of the same."""
    if queries not in found:
        return {}
    block = found[queries]

    def column(values: np.ndarray, empty: Any) -> np.ndarray:
        full = np.full(len(block.judged), empty, dtype=values.dtype)
        full[block.judged] = values
        return full

    nearest = np.array(keys, dtype=object)[block.ranked.nearest]
    return {
        "average_precision": column(block.average_precision, np.nan),
        "nearer": column(block.ranked.above, -1),
        "nearest": column(nearest, None),
    }

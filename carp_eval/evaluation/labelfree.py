"""Choosing a checkpoint without labels: RankMe and uniformity of a bank's features."""

import torch

from carp_eval import seeds
from carp_eval.cards.labelfree import LabelFreeCard
from carp_eval.evaluation.outcome import Outcome
from carp_eval.features.bank import Bank
from carp_eval.features.rows import plain_rows
from carp_eval.metrics import label_free
from carp_eval.results import Score


def run(card: LabelFreeCard, bank: Bank, queries: Bank, seed: int) -> Outcome:
    """Look at a bank's features.

    Neither number is a percentage: RankMe counts directions, uniformity is a logarithm.

    Args:
        card: The protocol.
        bank: The images whose features are looked at.
        queries: Plays no part, but must come from the same model.
        seed: Of the draw, where the card wants fewer images than there are.

    Raises:
        UsageError: If there are fewer than two images.
        BankError: If the banks are of different models or settings, or a feature is not finite.
    """
    bank.check_comparable(queries)
    features = plain_rows(bank.shards())
    count = min(len(features), card.images or len(features))
    if count < len(features):
        drawn = torch.randperm(len(features), generator=seeds.generator(seed, "labelfree"))[:count]
        # In the bank's order: sums then do not depend on the order of the draw.
        features = features[drawn.sort().values]
    return Outcome(
        scores=(
            Score(metric="rankme", value=label_free.rank_me(features, epsilon=card.epsilon)),
            Score(metric="uniformity", value=label_free.uniformity(features, t=card.t)),
        ),
        predictions={},
        notes=tuple(_notes(count, features.shape[1], rows=len(bank))),
        counts={"looked_at": count, "dim": features.shape[1]},
    )


def _notes(count: int, dim: int, *, rows: int) -> list[str]:
    notes = [
        f"rankme counts directions, of {min(count, dim)} at most; uniformity is a logarithm, the lower the better; "
        "neither is a percentage, and both compare runs of one method, not methods",
        "alignment needs two views of each image; a bank has one",
    ]
    if count < rows:
        notes.append(f"{count} of {rows} images, drawn at random, were looked at")
    return notes

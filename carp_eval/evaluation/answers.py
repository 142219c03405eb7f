"""What may be answered for each query, which answers are right, and how often the likeliest are."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from carp_eval.errors import UsageError
from carp_eval.evaluation import classified
from carp_eval.features.bank import Bank
from carp_eval.features.bank_view import BankView
from carp_eval.metrics import accuracy, bootstrap
from carp_eval.metrics.accuracy import PLACES, rank_classes
from carp_eval.results import Score, Setting


def rank_among(
    scores: Float[Tensor, "query class"], candidates: Int64[Tensor, " candidate"] | None, *, places: int
) -> Int64[Tensor, "query place"]:
    """Name the classes of the highest scores among some, the highest first; of equals the one with the lower number.

    Args:
        scores: What each class has: votes, or logits.
        candidates: Numbers of the classes that may be named, ascending; None for all.
        places: How many to name; no more than may be named.
    """
    if candidates is None:
        return rank_classes(scores, places=min(places, scores.shape[1]))
    return candidates[rank_classes(scores[:, candidates], places=min(places, len(candidates)))]


@dataclass(frozen=True)
class Answers:
    """What may be answered for each query, and what is right.

    Attributes:
        labels: The right class of each query.
        num_classes: Classes of the bank.
        candidates: Numbers of the classes that may be named, ascending; None for all of the bank's.
        right: The right classes of each query, where one may have several: any of them is right.
    """

    labels: Int64[np.ndarray, " query"]
    num_classes: int
    candidates: Int64[Tensor, " candidate"] | None = None
    right: Bool[np.ndarray, "query class"] | None = None

    @classmethod
    def to(cls, queries: Bank) -> "Answers":
        """Return what may be answered to a bank of queries.

        Raises:
            UsageError: If a query has no label, or there is none.
        """
        candidates = queries.candidates if isinstance(queries, BankView) else None
        right = queries.right if isinstance(queries, BankView) else None
        unlabelled = int((queries.labels < 0).sum()) if right is None else 0
        if unlabelled:
            raise UsageError(
                f"{unlabelled} of {len(queries)} images have no label: only labelled images can be scored"
            )
        if not len(queries):
            raise UsageError("there is no image to score")
        return cls(queries.labels.numpy(), len(queries.class_names), candidates, right)

    def of(self, class_names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names that may be named, given all."""
        if self.candidates is None:
            return class_names
        return tuple(class_names[number] for number in self.candidates.tolist())

    def rank(self, scores: Float[Tensor, "query class"], *, places: int = PLACES) -> Int64[Tensor, "query _"]:
        """Name the classes of the highest scores among those that may be named, the highest first.

        Args:
            scores: What each class has: votes, or logits.
            places: How many to name; no more than may be named.
        """
        return rank_among(scores, self.candidates, places=places)

    def hits(self, ranking: Int64[np.ndarray, "query place"], *, among: int) -> Bool[np.ndarray, " query"]:
        """Tell for each query whether a right class is among the first few that were named."""
        if self.right is None:
            return accuracy.hits(ranking, self.labels, among=among)
        return np.asarray(np.take_along_axis(self.right, ranking[:, :among], axis=1).any(axis=1))

    def scores(
        self, ranking: Int64[np.ndarray, "query place"], *, settings: Mapping[str, Setting], seed: int
    ) -> tuple[Score, ...]:
        """Return top-1, top-5 and, where each query has one class, the mean per class, with their intervals.

        Args:
            ranking: Classes named for each query, the likeliest first.
            settings: What tells these scores from others of the same metric.
            seed: Of the bootstrap.
        """
        if self.right is None:
            return classified.scores(
                ranking, self.labels, num_classes=self.num_classes, settings=settings, seed=seed
            )
        found: list[Score] = []
        for metric, among in (("top1", 1), ("top5", PLACES)):
            right = self.hits(ranking, among=among)
            low, high = (end * 100 for end in bootstrap.mean_interval(right, seed=seed))
            value = float(right.mean()) * 100
            found.append(Score(metric=metric, value=value, low=low, high=high, settings=dict(settings)))
        return tuple(found)

    def columns(
        self, ranking: Int64[np.ndarray, "query place"], *, suffix: str = ""
    ) -> dict[str, np.ndarray]:
        """Return what a record keeps of each query: the class named first, and whether the first few hold a right one.

        Args:
            ranking: Classes named for each query, the likeliest first.
            suffix: What tells these columns from others of the same evaluation: `_k20`.
        """
        if self.right is None:
            return classified.predictions(ranking, self.labels, of=suffix)
        # No label beside the prediction tells whether it is right.
        return {
            f"predicted{suffix}": ranking[:, 0],
            f"right{suffix}": self.hits(ranking, among=1),
            f"in_top5{suffix}": self.hits(ranking, among=PLACES),
        }

    def notes(self) -> list[str]:
        """Say what a reader of the scores must know of the answers."""
        said: list[str] = []
        if self.candidates is not None:
            said.append(
                f"only the queries' {len(self.candidates)} of the bank's {self.num_classes} classes could be named"
            )
        if self.right is not None:
            several = int((self.right.sum(axis=1) > 1).sum())
            said.append(
                f"{several} of {len(self.right)} queries have several right classes: any of them is right"
            )
        return said

"""The protocol `ncm`: a test image is of the class whose mean feature is nearest."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from carp_eval.evaluation.answers import Answers
from carp_eval.evaluation.job import Bar, no_bar
from carp_eval.evaluation.outcome import Outcome
from carp_eval.evaluation.runners import OnBanks
from carp_eval.features.bank import Bank
from carp_eval.features.rows import plain_rows, unit_rows
from carp_eval_example.plugins import NcmCard


def class_means(
    features: Float[Tensor, "row dim"], labels: Int64[Tensor, " row"], *, num_classes: int
) -> Float[Tensor, "class dim"]:
    """Average the features of each class."""
    sums = features.new_zeros(num_classes, features.shape[1]).index_add_(0, labels, features)
    return sums / labels.bincount(minlength=num_classes).clamp_min(1)[:, None]


def score(card: NcmCard, bank: Bank, queries: Bank, seed: int, *, bar: Bar = no_bar) -> Outcome:
    """Run the protocol on two banks: runners that need more take a `Job` instead (see `evaluation.job`)."""
    del bar
    rows = unit_rows if card.normalise else plain_rows
    means = class_means(rows(bank.shards()), bank.labels, num_classes=len(bank.class_names))
    answers = Answers.to(queries)
    ranking = answers.rank(-torch.cdist(rows(queries.shards()), means)).numpy()
    return Outcome(
        scores=tuple(answers.scores(ranking, settings={}, seed=seed)),
        predictions=answers.columns(ranking, suffix=""),
        notes=tuple(answers.notes()),
    )


run = OnBanks(score)

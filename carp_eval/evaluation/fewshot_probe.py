"""Few-shot classification by a linear head on a frozen trunk: a training of its own for each number of images."""

from contextlib import closing
from typing import Any

from carp_eval.cards.fewshot_probe import FewshotProbeCard
from carp_eval.evaluation import augmented, classified, few_labels, leaked, probe_training
from carp_eval.evaluation.augmented import FrozenTraining
from carp_eval.evaluation.job import Job
from carp_eval.evaluation.outcome import Outcome
from carp_eval.evaluation.probe_training import Kept
from carp_eval.features.rows import plain_rows
from carp_eval.results import Score


def run(job: Job) -> Outcome:
    """Train a head on n images of each class, for each n of the card, and score it on another split's centre crops.

    Raises:
        UsageError: If the splits do not fit, or images lack labels.
        TrainingError: If the loss is not finite.
        DataError: If images cannot be read.
    """
    card = job.card
    assert isinstance(card, FewshotProbeCard)
    whole, asked = job.images(card.bank_split), job.images(card.query_split)
    classified.check_labelled(whole, asked)
    # All before the first state is kept: what is kept is known by the images that were opened.
    chosen = {n: (whole, []) if n == "full" else few_labels.some_of_each(job, whole, n) for n in card.n}
    judged = leaked.scored(job, whole, asked)
    queries = augmented.judged_bank(job, judged)
    features, labels = plain_rows(queries.shards()), queries.labels.numpy()
    kept = Kept(job.unfinished())
    scores: list[Score] = []
    predictions: dict[str, Any] = {}
    notes: list[str] = []
    counts = dict(judged.counts)
    for n, (images, choice) in chosen.items():
        training = FrozenTraining(card, job, images, learning_rate=card.learning_rate, place=f"n = {n}")
        with closing(training):
            training.run(kept, f"n = {n}", bar=job.bar(f"training, n = {n}"))
        ranking = augmented.rank(training.head, features, device=job.device).numpy()
        settings = {"n": n, **augmented.pretraining(card, job)}
        scores += classified.scores(
            ranking, labels, num_classes=len(whole.class_names), settings=settings, seed=job.seed
        )
        predictions |= classified.predictions(ranking, labels, of=f"_n{n}")
        notes.append(f"n = {n}: " + "; ".join((*choice, *probe_training.told(training))))
        counts |= {
            f"{name}_n{n}": count
            for name, count in augmented.trained_on(job, images, training.skipped).items()
        }
    notes += classified.notes(whole.class_names, same_images=card.bank_split == card.query_split)
    return Outcome(
        scores=tuple(scores), predictions=predictions, notes=(*notes, *judged.notes), counts=counts
    )

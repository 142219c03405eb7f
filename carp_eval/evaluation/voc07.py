"""VOC07 classification: one linear support vector machine for each class, mean average precision."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int64
from sklearn.model_selection import StratifiedKFold

from carp_eval import distributed
from carp_eval.cards.voc07 import Voc07Card
from carp_eval.evaluation import multilabel, svm
from carp_eval.evaluation.job import Job
from carp_eval.evaluation.liblinear import Machine
from carp_eval.evaluation.multilabel import Split, judged_classes, taught
from carp_eval.evaluation.outcome import Outcome
from carp_eval.evaluation.svm import Kept, Task
from carp_eval.metrics import ranking, voc
from carp_eval.metrics.bootstrap import Interval
from carp_eval.results import Score, Setting


def run(job: Job) -> Outcome:
    """Train on one split, and score another.

    Args:
        job: The evaluation; its card is a `Voc07Card`.

    Raises:
        UsageError: If the data set does not tell several classes of an image, or no class can be judged.
        CarpError: If the data are not there, or cannot be read or stored.
    """
    card = job.card
    assert isinstance(card, Voc07Card)
    train, test = multilabel.banks(job)
    return distributed.on_main(lambda: _judge(card, multilabel.read(train), multilabel.read(test), job))


def _judge(card: Voc07Card, train: Split, test: Split, job: Job) -> Outcome:
    solver, kept = svm.solver_of(card), Kept(f"{train.made_of} {test.made_of}", job.unfinished())
    least = card.folds if card.chooses else 1
    classes, notes = judged_classes(train, test, difficult=card.difficult_in_train, least=least)
    notes = [*train.notes, *test.notes, *notes]
    learnt = taught(train.targets, card.difficult_in_train)
    costs = [card.costs[0]] * len(classes)
    trained = stopped = 0
    if card.chooses:
        chosen = _choose(card, train, learnt, classes, kept, job)
        costs = [card.costs[number] for number in chosen.best]
        notes.append(
            f"C by class, best of {len(card.costs)} over {card.folds} folds of {card.bank_split}: "
            + ", ".join(f"{train.class_names[c]} {cost:g}" for c, cost in zip(classes, costs, strict=True))
        )
        trained, stopped = chosen.trained, chosen.stopped

    def decide(machine: Machine) -> Float64[np.ndarray, " row"]:
        return machine.decide(test.features)

    judged = svm.train(
        [
            Task(train.features, learnt[:, number], cost, decide)
            for number, cost in zip(classes, costs, strict=True)
        ],
        width=len(test.features),
        solver=solver,
        kept=kept,
        name="machines",
        progress=job.bar("support vector machines"),
    )
    trained, stopped = trained + len(classes), stopped + int(judged.unconverged.sum())
    decided = np.ascontiguousarray(judged.values.T)
    return Outcome(
        scores=_scores(card, test, classes, costs, decided, seed=job.seed),
        predictions=_predictions(test, classes, decided),
        notes=tuple(notes + svm.unconverged_note(stopped, trained, solver=solver)),
        counts={**test.counts, "judged_classes": len(classes), "machines": trained},
    )


class _Chosen(NamedTuple):
    """Which C each class takes.

    Attributes:
        best: Its number in the card's list, for each class.
        trained: Machines that were trained to choose it.
        stopped: Those that were not done.
    """

    best: list[int]
    trained: int
    stopped: int


def _choose(
    card: Voc07Card,
    train: Split,
    learnt: Int8[np.ndarray, "row class"],
    classes: Sequence[int],
    kept: Kept,
    job: Job,
) -> _Chosen:
    """Score each C on folds of the training images, as scikit-learn's `cross_val_score` of average precision."""
    tasks: list[Task] = []
    for number in classes:
        rows = np.flatnonzero(learnt[:, number])
        wanted = learnt[rows, number]
        folds = list(StratifiedKFold(card.folds).split(rows, wanted))
        for cost in card.costs:
            for _, held in folds:
                targets = learnt[:, number].copy()
                targets[rows[held]] = 0
                tasks.append(Task(train.features, targets, cost, _Held(train, rows[held], wanted[held] > 0)))
    solver = svm.solver_of(card)
    judged = svm.train(
        tasks,
        width=1,
        solver=solver,
        kept=kept,
        name="folds",
        progress=job.bar(f"support vector machines, {card.folds} folds"),
    )
    means = judged.values.reshape(len(classes), len(card.costs), card.folds).mean(axis=2)
    # argmax takes the first of equals, as VISSL does: the smallest C, where costs ascend.
    return _Chosen(means.argmax(axis=1).tolist(), len(tasks), int(judged.unconverged.sum()))


class _Held:
    """Scores a machine on rows it has not learnt from."""

    def __init__(
        self, train: Split, rows: Int64[np.ndarray, " held"], relevant: Bool[np.ndarray, " held"]
    ) -> None:
        self._train = train
        self._rows = rows
        self._relevant = relevant

    def __call__(self, machine: Machine) -> Float64[np.ndarray, " value"]:
        scores = machine.decide(self._train.features)[self._rows]
        return np.array([ranking.average_precision(ranking.ranked(scores, self._relevant))])


def _scores(
    card: Voc07Card,
    test: Split,
    classes: Sequence[int],
    costs: Sequence[float],
    decided: Float64[np.ndarray, "row judged"],
    *,
    seed: int,
) -> tuple[Score, ...]:
    targets, difficult = test.targets[:, classes], card.difficult_in_test
    found = [
        voc.average_precision(decided[:, place], targets[:, place], difficult=difficult)
        for place in range(len(classes))
    ]
    intervals = voc.intervals(decided, targets, difficult=difficult, seed=seed)
    scores = [_score("map", float(np.mean(found)), intervals.mean, {})]
    for number, cost, value, interval in zip(classes, costs, found, intervals.per_class, strict=True):
        settings: dict[str, Setting] = {"class": test.class_names[number]}
        if card.chooses:
            settings["C"] = cost
        scores.append(_score("ap", value, interval, settings))
    return tuple(scores)


def _score(metric: str, value: float, interval: Interval, settings: dict[str, Setting]) -> Score:
    low, high = (end * 100 for end in interval)
    return Score(metric=metric, value=value * 100, low=low, high=high, settings=settings)


def _predictions(
    test: Split, classes: Sequence[int], decided: Float64[np.ndarray, "row judged"]
) -> dict[str, np.ndarray]:
    """Return, for each class, what each test image shows and what its machine says."""
    columns: dict[str, np.ndarray] = {}
    for place, number in enumerate(classes):
        name = test.class_names[number]
        columns[f"target_{name}"] = test.targets[:, number]
        columns[f"decision_{name}"] = decided[:, place]
    return columns

"""Few-shot classification of VOC07: linear support vector machines that learn from a few images of each class."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int8, Int64

from carp_eval import distributed, seeds
from carp_eval.cards.fewshot import SvmFewshotCard
from carp_eval.errors import UsageError
from carp_eval.evaluation import multilabel, svm
from carp_eval.evaluation.job import Job
from carp_eval.evaluation.liblinear import Machine
from carp_eval.evaluation.multilabel import Split, judged_classes, taught
from carp_eval.evaluation.outcome import Outcome
from carp_eval.evaluation.svm import Kept, Task
from carp_eval.metrics import voc
from carp_eval.results import Score, Setting


class Draw(NamedTuple):
    """What one class learns from in one draw.

    Attributes:
        rows: Training rows, in the order they are learnt in; one may come twice.
        targets: What each shows: 1, -1, or 0 where it is left out.
    """

    rows: Int64[np.ndarray, " shot"]
    targets: Int8[np.ndarray, " shot"]


def run(job: Job) -> Outcome:
    """Draw a few images of each class, train on them and score another split; several times, for several numbers.

    Args:
        job: The evaluation; its card is an `SvmFewshotCard`.

    Raises:
        UsageError: If the data set does not tell several classes of an image, no class can be judged, or a draw gives
            nothing to tell a class from.
        CarpError: If the data are not there, or cannot be read or stored.
    """
    card = job.card
    assert isinstance(card, SvmFewshotCard)
    train, test = multilabel.banks(job)
    return distributed.on_main(lambda: _judge(card, multilabel.read(train), multilabel.read(test), job))


def draw_together(
    targets: Int8[np.ndarray, "row class"], classes: Sequence[int], *, n: int, seed: int, number: int
) -> list[Draw]:
    """Draw n images of each class, from all of which every class learns: PCL's low-shot.

    Args:
        targets: What the training images show, as machines learn it (see `voc07.taught`).
        classes: For which images are drawn.
        n: How many for each; fewer where there are not so many.
        seed: Of the evaluation.
        number: Of the draw.

    Returns:
        For each class, what it learns from.
    """
    # One class after the other, as PCL does: what is drawn for two of them stands there twice.
    rows = np.concatenate([_some(targets[:, c] > 0, n, seed, "images", n, number, c) for c in classes])
    return [Draw(rows, targets[rows, c]) for c in classes]


def draw_apart(
    targets: Int8[np.ndarray, "row class"],
    classes: Sequence[int],
    *,
    n: int,
    negatives: int,
    seed: int,
    number: int,
) -> list[Draw]:
    """Draw for each class n images with it, and for each of these some without it: VISSL's low-shot.

    Args:
        targets: What the training images show, as machines learn it (see `voc07.taught`).
        classes: For which images are drawn.
        n: Images with the class; fewer where there are not so many.
        negatives: Images without it, for each of the n.
        seed: Of the evaluation.
        number: Of the draw.

    Returns:
        For each class, what it learns from.
    """
    draws: list[Draw] = []
    for c in classes:
        with_it = _some(targets[:, c] > 0, n, seed, "images", n, number, c)
        without = _some(targets[:, c] < 0, n * negatives, seed, "others", n, number, c)
        rows = np.sort(np.concatenate([with_it, without]))
        draws.append(Draw(rows, targets[rows, c]))
    return draws


def _some(of: np.ndarray, count: int, seed: int, *place: str | int) -> Int64[np.ndarray, " drawn"]:
    """Draw without replacement; all, in random order, where there are no more."""
    rows = np.flatnonzero(of)
    order = torch.randperm(len(rows), generator=seeds.generator(seed, "fewshot", *place))
    return rows[order.numpy()[:count]]


class _Judge:
    """Scores a machine on the test images and, where asked, on the training images it was not shown."""

    def __init__(self, card: SvmFewshotCard, train: Split, test: Split, number: int, shown: Draw) -> None:
        self._card = card
        self._train = train
        self._test = test
        self._number = number
        self._shown = shown

    def __call__(self, machine: Machine) -> Float64[np.ndarray, " value"]:
        card, number = self._card, self._number
        found = [
            voc.average_precision(
                machine.decide(self._test.features),
                self._test.targets[:, number],
                difficult=card.difficult_in_test,
            )
        ]
        if card.chooses and card.chosen_on == "rest":
            rest = np.ones(len(self._train.targets), dtype=bool)
            rest[self._shown.rows] = False
            found.append(
                voc.average_precision(
                    machine.decide(self._train.features)[rest],
                    self._train.targets[rest, number],
                    difficult=card.difficult_in_train,
                )
            )
        return np.array(found)


def _judge(card: SvmFewshotCard, train: Split, test: Split, job: Job) -> Outcome:
    classes, notes = judged_classes(train, test, difficult=card.difficult_in_train)
    learnt = taught(train.targets, card.difficult_in_train)
    tasks: list[Task] = []
    for n in card.n:
        for number in range(card.draws):
            tasks += _tasks(card, train, test, learnt, classes, n=n, number=number, seed=job.seed)
    solver = svm.solver_of(card)
    choosing = card.chooses and card.chosen_on == "rest"
    judged = svm.train(
        tasks,
        width=2 if choosing else 1,
        solver=solver,
        kept=Kept(f"{train.made_of} {test.made_of}", job.unfinished()),
        name="machines",
        progress=job.bar("support vector machines"),
    )
    shape = (len(card.n), card.draws, len(classes), len(card.costs), -1)
    values = judged.values.reshape(shape)
    best = _mean(values[..., -1]).mean(axis=1).argmax(axis=1)
    notes = [*train.notes, *test.notes, *notes, *_notes(card, train, learnt, classes)]
    notes += svm.unconverged_note(int(judged.unconverged.sum()), len(tasks), solver=solver)
    scores: list[Score] = []
    for place, n in enumerate(card.n):
        of_draws = values[place, :, :, best[place], 0].mean(axis=1) * 100
        scores += _scores(card, n, of_draws, card.costs[best[place]])
    return Outcome(
        scores=tuple(scores),
        predictions={},
        notes=tuple(notes),
        counts={**test.counts, "judged_classes": len(classes), "machines": len(tasks)},
    )


def _tasks(
    card: SvmFewshotCard,
    train: Split,
    test: Split,
    learnt: Int8[np.ndarray, "row class"],
    classes: Sequence[int],
    *,
    n: int,
    number: int,
    seed: int,
) -> list[Task]:
    """Return one draw's machines, of each class and, within it, each C."""
    if card.negatives is None:
        draws = draw_together(learnt, classes, n=n, seed=seed, number=number)
    else:
        draws = draw_apart(learnt, classes, n=n, negatives=card.negatives, seed=seed, number=number)
    if (
        card.chooses
        and card.chosen_on == "rest"
        and not any(
            np.setdiff1d(np.flatnonzero(learnt[:, c] > 0), shown.rows).size
            for c, shown in zip(classes, draws, strict=True)
        )
    ):
        raise UsageError(
            f"draw {number} of {n} images for each class leaves none that shows a class to choose one of "
            f"{len(card.costs)} C on: draw fewer, or give the card one C"
        )
    tasks: list[Task] = []
    shared = train.features[draws[0].rows] if card.negatives is None else None
    for c, shown in zip(classes, draws, strict=True):
        if not (shown.targets < 0).any():
            raise UsageError(
                f"draw {number} of {n} images for each of {len(classes)} classes has none without "
                f"{train.class_names[c]}: too few classes to tell it from"
            )
        judge = _Judge(card, train, test, c, shown)
        if shared is not None:
            tasks += [Task(shared, shown.targets, cost, judge) for cost in card.costs]
        else:
            targets = np.zeros(len(learnt), dtype=np.int8)
            targets[shown.rows] = shown.targets
            tasks += [Task(train.features, targets, cost, judge) for cost in card.costs]
    return tasks


def _mean(values: Float64[np.ndarray, "n draw class cost"]) -> Float64[np.ndarray, "n draw cost"]:
    """Average over the classes that have images left to choose by: they are the same for every C."""
    there = ~np.isnan(values)
    return np.where(there, values, 0.0).sum(axis=2) / there.sum(axis=2)


def _scores(card: SvmFewshotCard, n: int, of_draws: Float64[np.ndarray, " draw"], cost: float) -> list[Score]:
    settings: dict[str, Setting] = {"n": n}
    if card.chooses:
        settings["C"] = cost
    return [
        Score(metric="map", value=float(of_draws.mean()), settings=settings),
        # Over the draws, not of their mean, and divided by their number: as VISSL and PCL report it.
        Score(metric="map_std", value=float(of_draws.std()), settings=settings),
        *(
            Score(metric="map_of_draw", value=float(value), settings=settings | {"draw": number})
            for number, value in enumerate(of_draws)
        ),
    ]


def _notes(
    card: SvmFewshotCard, train: Split, learnt: Int8[np.ndarray, "row class"], classes: Sequence[int]
) -> list[str]:
    notes = [
        f"map is the mean of {card.draws} draws, map_std their standard deviation (divided by {card.draws})"
    ]
    if card.chooses:
        where = {
            "rest": f"the {card.bank_split} images that were not drawn: more labels than n went into the choice",
            "test": "the test images: this flatters",
        }[card.chosen_on]
        notes.append(f"for each n, C is the one of {len(card.costs)} with the best mAP on {where}")
    wanted = max(card.n)
    for what, count, there in (
        ("with", wanted, (learnt > 0).sum(axis=0)),
        ("without", wanted * (card.negatives or 0), (learnt < 0).sum(axis=0)),
    ):
        few = [f"{train.class_names[c]} {there[c]}" for c in classes if there[c] < count]
        if few:
            notes.append(
                f"fewer than {count} images {what} the class to draw from, all taken: {', '.join(few)}"
            )
    return notes

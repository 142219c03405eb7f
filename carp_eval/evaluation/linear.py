"""Linear probes on the bank: a grid of learning rates and weight decays, or logistic regression over C."""

import warnings
from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from carp_eval.cards.linear import CachedLinearCard, LinearCard, LogregCard
from carp_eval.errors import UsageError
from carp_eval.evaluation import classified, grid_rows, held_out, linear_grid, scaled
from carp_eval.evaluation.answers import Answers
from carp_eval.evaluation.grid_rows import GridRows
from carp_eval.evaluation.held_out import Judged, Parts
from carp_eval.evaluation.job import Bar, no_bar
from carp_eval.evaluation.linear_grid import Heads, Kept
from carp_eval.evaluation.outcome import Outcome
from carp_eval.evaluation.scaled import ScaledRows
from carp_eval.features import memory as memory_of
from carp_eval.features.bank import Bank
from carp_eval.features.search.streamed import Keeper
from carp_eval.features.stored import ahead
from carp_eval.results import Setting

CHUNK = 4096

# Names each query's likeliest classes by their logits.
Rank = Callable[[Float[Tensor, "query class"]], Int64[Tensor, "query place"]]


class Probe(NamedTuple):
    """A probe that was trained with the settings of its choice.

    Attributes:
        ranking: Each query's likeliest classes, the likeliest first.
        settings: What was chosen.
        notes: How, and among what.
        candidates: How many there were to choose from.
        weight: What maps scaled features to logits.
        bias: Is added to them.
    """

    ranking: Int64[Tensor, "query place"]
    settings: dict[str, Setting]
    notes: list[str]
    candidates: int
    weight: Float[Tensor, "class dim"]
    bias: Float[Tensor, " class"]


def run(
    card: LinearCard,
    bank: Bank,
    queries: Bank,
    seed: int,
    *,
    bar: Bar = no_bar,
    memory: int | None = None,
    kept: Keeper | None = None,
) -> Outcome:
    """Train linear classifiers on one bank, choose one on a held-out part of it, and classify another.

    Args:
        card: The protocol.
        bank: Labelled images to train on.
        queries: Images to classify.
        seed: Of the held-out part, the order of rows, and the bootstrap.
        bar: Is told of steps and fits done.
        memory: Bytes that a grid may take; None is a quarter of what there is. It moves no score, unless the features
            are larger as they are stored: their order is then another, as a note tells.
        kept: Keeps the state of a grid.

    Raises:
        UsageError: If there are fewer than two classes, two rows of a class or a batch of rows, images lack labels,
            no setting converges, or the memory is too little.
        BankError: If the banks are of different models or settings, or a feature is not finite.
    """
    bank.check_comparable(queries)
    answers = Answers.to(queries)
    parts = held_out.split(bank.labels, share=card.held_out, class_names=bank.class_names, seed=seed)
    num_classes = len(bank.class_names)
    if isinstance(card, LogregCard):
        _check_memory(card, rows=len(bank), dim=bank.dim, num_classes=num_classes, memory=memory)
    rows, asked = scaled.both(bank, queries, how=card.scaling)
    match card:
        case CachedLinearCard():
            features = _held(card, bank, rows, num_classes=num_classes, memory=memory)
            probe = _grid(
                card,
                features,
                bank,
                parts,
                asked,
                answers.rank,
                num_classes=num_classes,
                seed=seed,
                kept=kept,
                bar=bar,
            )
        case LogregCard():
            probe = _logreg(card, rows, bank.labels, parts, asked, answers.rank, bar)
        case _:
            raise AssertionError(f"no probe of mode {card.mode}")
    ranking = probe.ranking.numpy()
    scaling = rows.scaling
    return Outcome(
        scores=answers.scores(ranking, settings=probe.settings, seed=seed),
        predictions=answers.columns(ranking),
        notes=tuple(probe.notes + answers.notes() + _notes(card, bank, queries, answers)),
        counts={
            "trained": len(bank) if card.refit else len(parts.fitted),
            "held_out": len(parts.held_out),
            "candidates": probe.candidates,
        },
        head={"weight": probe.weight, "bias": probe.bias, **({} if scaling is None else scaling._asdict())},
    )


def _held(
    card: CachedLinearCard, bank: Bank, rows: ScaledRows, *, num_classes: int, memory: int | None
) -> GridRows:
    """Hold the bank's rows in what the grid's heads leave of the memory."""
    budget = memory_of.default_budget() if memory is None else memory
    pairs = len(card.learning_rates) * len(card.weight_decays)
    beside = linear_grid.memory_of(
        dim=rows.dim, width=pairs * num_classes, batch_size=card.batch_size, count=len(rows)
    )
    features = grid_rows.within(bank, rows, budget=budget - beside, batch_size=card.batch_size)
    if features is None:
        least = beside + grid_rows.least(rows, batch_size=card.batch_size)
        raise UsageError(
            f"{scaled.gigabytes(budget)} of memory are too little for {pairs} classifiers of {num_classes} classes on "
            f"{rows.dim} dimensions: give {scaled.gigabytes(least)} or more with --memory, or a card with fewer "
            "learning rates and weight decays"
        )
    return features


def _check_memory(card: LogregCard, *, rows: int, dim: int, num_classes: int, memory: int | None) -> None:
    """Tell before the work if logistic regression, which needs all features at once, has not the memory."""
    size = np.dtype(card.dtype).itemsize
    # The rows, in the card's numbers too, and again in two parts; scores and slopes; what L-BFGS remembers.
    matrix = rows * dim * (4 + (size if size > 4 else 0) + size)
    scaled.check_in_memory(
        matrix + 3 * size * rows * num_classes + 200 * num_classes * dim,
        memory=memory,
        what=f"logistic regression on {rows:,} images of {dim} dimensions and {num_classes:,} classes",
        instead="take --variant cached-grid, which reads features from disk where they are larger than memory",
    )


def _grid(
    card: CachedLinearCard,
    features: GridRows,
    bank: Bank,
    parts: Parts,
    asked: ScaledRows,
    rank: Rank,
    *,
    num_classes: int,
    seed: int,
    kept: Keeper | None,
    bar: Bar,
) -> Probe:
    labels = bank.labels

    def train(rows: Tensor, pairs: Sequence[tuple[float, float]], kept: Kept) -> Heads:
        rates, decays = torch.tensor(pairs, dtype=torch.float64).unbind(dim=1)
        return linear_grid.train(
            features,
            labels,
            rows,
            learning_rates=rates,
            weight_decays=decays,
            num_classes=num_classes,
            epochs=card.epochs,
            batch_size=card.batch_size,
            momentum=card.momentum,
            seed=seed,
            progress=bar(f"linear heads ({len(pairs)})"),
            kept=kept,
        )

    pairs = list(product(card.learning_rates, card.weight_decays))
    name = scaled.name_of(bank, card.model_dump(mode="json"), seed, features.notes)
    refit = f"{name} again on all"
    state = None if kept is None else kept.load()
    heads = None
    if card.refit and state is not None and state.get("name") == refit:
        judged = Judged(state["top1"], state["loss"])
    else:
        heads = train(parts.fitted, pairs, Kept(kept, name))
        judged = linear_grid.judge(heads, features, labels, parts.held_out)
    chosen = held_out.best(judged)
    if heads is None or card.refit:
        # All pairs' heads make room for the one that is trained next.
        heads = None
        again = Kept(kept, refit, beside=judged._asdict())
        heads = train(torch.arange(len(labels)), [pairs[chosen]], again)
    else:
        heads = heads.alone(chosen)
    ranking = [rank(heads.logits(part)[:, :, 0]) for _, part in ahead(asked.slab, len(asked), at_once=CHUNK)]
    rate, decay = pairs[chosen]
    notes = [
        f"learning rate {rate:g} and weight decay {decay:g} were best of {len(pairs)} pairs on held-out train: "
        f"{_percent(judged, chosen)}",
        f"held-out top-1 by learning rate, weight decays {_listed(card.weight_decays)} side by side: "
        + "; ".join(
            f"{rate:g}: "
            + " ".join(_percent(judged, pairs.index((rate, decay))) for decay in card.weight_decays)
            for rate in card.learning_rates
        ),
    ]
    if _at_an_end(rate, card.learning_rates):
        notes.append("the best learning rate is at an end of its range: a wider one may score more")
    notes += features.notes
    return Probe(
        torch.cat(ranking),
        {"learning_rate": rate, "weight_decay": decay},
        notes,
        len(pairs),
        weight=heads.weights.T.contiguous(),
        bias=heads.biases.contiguous(),
    )


def _logreg(
    card: LogregCard, rows: ScaledRows, labels: Tensor, parts: Parts, asked: ScaledRows, rank: Rank, bar: Bar
) -> Probe:
    exact = rows.slab(0, len(rows)).numpy().astype(card.dtype, copy=False)
    fitted, held = exact[parts.fitted], exact[parts.held_out]
    fitted_labels, held_labels = labels[parts.fitted].numpy(), labels[parts.held_out]
    values = sorted(float(value) for value in np.logspace(card.lowest_power, card.highest_power, card.number))
    # The loss has one minimum: to start from that of the C before moves no result, and saves most of the iterations.
    model = LogisticRegression(max_iter=card.max_iter, tol=card.tolerance, warm_start=True)
    unfinished: list[float] = []
    top1: list[float] = []
    loss: list[float] = []
    tell = bar("values of C")
    for number, value in enumerate(values, start=1):
        _fit(model.set_params(C=value), fitted, fitted_labels, unfinished)
        logits = _logits(model, held)
        top1.append((logits.argmax(dim=1) == held_labels).double().mean().item())
        loss.append(torch.nn.functional.cross_entropy(logits.double(), held_labels).item())
        tell(number, len(values))
    judged = Judged(torch.tensor(top1), torch.tensor(loss))
    chosen = held_out.best(judged)
    if card.refit or chosen < len(values) - 1:
        learnt = (exact, labels.numpy()) if card.refit else (fitted, fitted_labels)
        model = LogisticRegression(C=values[chosen], max_iter=card.max_iter, tol=card.tolerance)
        _fit(model, *learnt, unfinished)
    ranking = [rank(_logits(model, part.numpy())) for _, part in ahead(asked.slab, len(asked), at_once=CHUNK)]
    notes = [
        f"C = {values[chosen]:.3g} was best of {len(values)} on held-out train: {_percent(judged, chosen)}",
        "held-out top-1 by C: "
        + "; ".join(f"{value:.3g}: {_percent(judged, number)}" for number, value in enumerate(values)),
    ]
    if _at_an_end(values[chosen], values):
        notes.append("the best C is at an end of its range: a wider one may score more")
    if unfinished:
        notes.append(
            f"{len(unfinished)} fits were not done after {card.max_iter} iterations, C = {_listed(unfinished)}"
        )
    weight, bias = _two_sided(model)
    return Probe(torch.cat(ranking), {"C": values[chosen]}, notes, len(values), weight=weight, bias=bias)


def _fit(
    model: LogisticRegression, features: np.ndarray, labels: np.ndarray, unfinished: list[float]
) -> None:
    with warnings.catch_warnings():
        # It becomes a note of the result.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels)
    if max(model.n_iter_) >= model.max_iter:
        unfinished.append(model.C)


def _logits(model: LogisticRegression, features: np.ndarray) -> Float[Tensor, "row class"]:
    scores = torch.from_numpy(np.asarray(model.decision_function(features)))
    # Of two classes scikit-learn scores the second alone, against zero.
    return scores if scores.ndim == 2 else torch.stack([torch.zeros_like(scores), scores], dim=1)


def _two_sided(model: LogisticRegression) -> tuple[Float[Tensor, "class dim"], Float[Tensor, " class"]]:
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if len(bias) > 1:
        return weight, bias
    return torch.cat([torch.zeros_like(weight), weight]), torch.cat([torch.zeros_like(bias), bias])


def _notes(card: LinearCard, bank: Bank, queries: Bank, answers: Answers) -> list[str]:
    notes: list[str] = []
    if not card.refit:
        notes.append("the probe was not trained again on all of train: it has not seen the held-out part")
    same_images = bank.fingerprint == queries.fingerprint
    return notes + classified.notes(answers.of(bank.class_names), same_images=same_images)


def _at_an_end(value: float, values: Sequence[float]) -> bool:
    return len(values) > 2 and value in (min(values), max(values))


def _percent(judged: Judged, candidate: int) -> str:
    if not judged.loss[candidate].isfinite():
        return "diverged"
    return f"{judged.top1[candidate].item() * 100:.2f}"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)

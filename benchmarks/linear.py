"""Time of the linear grid against its bare matrix products and against its pairs one by one, and its score.

    python benchmarks/linear.py                    # 20,000 rows, 2,048 dimensions, 48 pairs, 10 and 100 classes
    python benchmarks/linear.py --no-score         # times alone
    python benchmarks/linear.py --quick            # 2,000 rows, 256 dimensions, once: tries the script, says little

Times: one epoch at the batch size and the pairs of the card linear@cached-grid. The forms take turns in one process,
after a turn of a few steps that does not count; medians are given. Bare products: for each step one product of a
batch of features, which lie ready, with all weights, and one of that batch with the gradient at the scores; no softmax,
no update, no gathering of rows. One by one: the same code on one pair at a time.

Score: the grid as the card has it (a pair chosen on held-out train, trained again on all of it) against scikit-learn's
LogisticRegression, its C chosen on the same held-out rows, fitted again on all. Features are rectified noise around a
point for each class, `--spread` of it, standardised.
"""

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from itertools import product
from pathlib import Path

import numpy as np
import sklearn
import torch
from rich.console import Console
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from carp_eval.cards.linear import CachedLinearCard
from carp_eval.cards.loading import check, folder, read
from carp_eval.evaluation import held_out, linear_grid
from carp_eval.evaluation.grid_rows import InMemory
from carp_eval.features.rows import standardise

PATH = folder("protocols") / "linear@cached-grid.toml"
POWERS = range(-6, 2)


def make(rows, dim, num_classes, spread, seed):
    """Features and labels."""
    labels = torch.arange(rows) % num_classes
    features = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    centres = torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(0))
    return features.add_(centres[labels], alpha=spread).relu_(), labels


def bare_products(features, *, batch_size, width):
    """One epoch's products, each into the same memory."""
    weights, scores = torch.zeros(features.shape[1], width), torch.zeros(batch_size, width)
    gradient = torch.zeros_like(weights)

    def epoch(rows):
        for start in range(0, rows - batch_size + 1, batch_size):
            batch = features[start : start + batch_size]
            torch.mm(batch, weights, out=scores)
            torch.mm(batch.T, scores, out=gradient)

    return epoch


def time_forms(forms, rows, few, repeats):
    seconds = {name: [] for name in forms}
    for turn in range(repeats + 1):
        for name, form in forms.items():
            started = time.perf_counter()
            form(few if turn == 0 else rows)
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def train(card, features, labels, rows, pairs, num_classes, epochs):
    rates, decays = torch.tensor(pairs, dtype=torch.float64).unbind(dim=1)
    return linear_grid.train(
        InMemory(features),
        labels,
        rows,
        learning_rates=rates,
        weight_decays=decays,
        num_classes=num_classes,
        epochs=epochs,
        batch_size=card.batch_size,
        momentum=card.momentum,
        seed=0,
    )


def grid_score(card, pairs, features, labels, queries, wanted, num_classes):
    parts = held_out.split(labels, share=card.held_out, class_names=["class"] * num_classes, seed=0)
    heads = train(card, features, labels, parts.fitted, pairs, num_classes, card.epochs)
    best = held_out.best(linear_grid.judge(heads, InMemory(features), labels, parts.held_out))
    heads = train(card, features, labels, torch.arange(len(labels)), [pairs[best]], num_classes, card.epochs)
    score = linear_grid.judge(heads, InMemory(queries), wanted, torch.arange(len(wanted))).top1.item()
    return score * 100, f"rate {pairs[best][0]:g}, decay {pairs[best][1]:g}"


def sklearn_score(card, features, labels, queries, wanted, num_classes):
    parts = held_out.split(labels, share=card.held_out, class_names=["class"] * num_classes, seed=0)
    x, y = features.numpy(), labels.numpy()
    fitted, held = parts.fitted.numpy(), parts.held_out.numpy()
    right = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for power in POWERS:
            model = LogisticRegression(C=10.0**power, max_iter=1000).fit(x[fitted], y[fitted])
            right[power] = np.mean(model.predict(x[held]) == y[held])
        best = max(right, key=right.get)
        model = LogisticRegression(C=10.0**best, max_iter=1000).fit(x, y)
    return float(np.mean(model.predict(queries.numpy()) == wanted.numpy())) * 100, f"C 1e{best}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=5_000, help="Rows that are scored.")
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--spread", type=float, default=0.1, help="How far classes are apart.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--score", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--score-classes", type=int, nargs="+", default=[10])
    parser.add_argument("--json", type=Path, help="Write the numbers here too.")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.queries, options.dim, options.repeats = 2_000, 1_000, 256, 1

    card = check(CachedLinearCard, read(PATH, "protocols"), where=str(PATH))
    pairs = list(product(card.learning_rates, card.weight_decays))
    console, told = Console(), vars(options) | {"json": None, "torch": torch.__version__}
    shape = f"{options.rows} rows x {options.dim}, {len(pairs)} pairs, batches of {card.batch_size}"
    table = Table(title=f"one epoch: {shape}")
    for column in ("classes", "form", "seconds (median)", "lowest", "x products", "x ours"):
        table.add_column(column, justify="left" if column == "form" else "right")
    for num_classes in options.classes:
        features, labels = make(options.rows, options.dim, num_classes, options.spread, seed=1)

        def ours(rows, chosen, features=features, labels=labels, num_classes=num_classes):
            train(card, features, labels, torch.arange(rows), chosen, num_classes, epochs=1)

        forms = {
            "bare products": bare_products(
                features, batch_size=card.batch_size, width=len(pairs) * num_classes
            ),
            "ours, all pairs at once": lambda rows, ours=ours: ours(rows, pairs),
            "ours, one by one": lambda rows, ours=ours: [ours(rows, [pair]) for pair in pairs],
        }
        seconds = time_forms(forms, options.rows, min(options.rows, 4 * card.batch_size), options.repeats)
        told[f"seconds, {num_classes} classes"] = seconds
        floor, whole = (
            statistics.median(seconds[name]) for name in ("bare products", "ours, all pairs at once")
        )
        for name, times in seconds.items():
            median = statistics.median(times)
            table.add_row(
                str(num_classes),
                name,
                f"{median:.2f}",
                f"{min(times):.2f}",
                f"{median / floor:.3f}",
                f"{median / whole:.2f}",
            )
    console.print(table)
    if options.score:
        table = Table(title=f"top-1 of {options.queries} new rows, settings chosen on held-out train")
        for column in ("classes", "form", "top-1", "chosen", "seconds"):
            table.add_column(column, justify="left" if column in ("form", "chosen") else "right")
        for num_classes in options.score_classes:
            features, labels = make(options.rows, options.dim, num_classes, options.spread, seed=1)
            queries, wanted = make(options.queries, options.dim, num_classes, options.spread, seed=2)
            features, queries = standardise(features, queries)
            data = (features, labels, queries, wanted, num_classes)
            for name, form in (
                (f"ours, {card.epochs} epochs", lambda data=data: grid_score(card, pairs, *data)),
                ("scikit-learn", lambda data=data: sklearn_score(card, *data)),
            ):
                started = time.perf_counter()
                score, chosen = form()
                took = time.perf_counter() - started
                table.add_row(str(num_classes), name, f"{score:.2f}", chosen, f"{took:.1f}")
                told[f"top-1, {num_classes} classes, {name}"] = score
        console.print(table)
    console.print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}, "
        f"PyTorch {torch.__version__}, scikit-learn {sklearn.__version__}"
    )
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Time of VOC07's support vector machines on all cores against the serial loop, and whether scores are the same.

    python benchmarks/svm.py             # 5,011 rows of 2,048 values, 4 classes, 2 C, 3 folds
    python benchmarks/svm.py --quick     # a few seconds, to see that it runs

The work is a part of voc07@vissl's: for each class and C three machines, each without a third of the rows, and one on
all. Rows are rectified noise of unit length, and a class is a direction that some of them have, with noise. Forms:

- scikit-learn, serial: LinearSVC in a loop, on a copy of the rows for each fold.
- scikit-learn, threads: the same fits in as many threads as cores. They share one random generator, so that none comes
  out as it does alone.
- ours, 1 thread; ours, all cores.

The forms take turns in one process; medians are given. `same` is whether every machine decides each row as the serial
loop's does, to the bit; `map` is the mean average precision over classes and C on new rows, to the last digit.
"""

import argparse
import json
import platform
import statistics
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import sklearn
from rich.console import Console
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from carp_eval.evaluation import svm
from carp_eval.evaluation.liblinear import Solver
from carp_eval.evaluation.svm import Kept, Task
from carp_eval.metrics import voc

SOLVER = Solver()
SHARE = 0.05


def make(rows, dim, num_classes, seed):
    """Features and targets."""
    random = np.random.default_rng(seed)
    features = np.maximum(random.normal(size=(rows, dim)), 0)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    directions = np.random.default_rng(0).normal(size=(dim, num_classes))
    scores = features @ directions
    scores += scores.std() * 0.5 * random.normal(size=scores.shape)
    return features, np.where(scores > np.quantile(scores, 1 - SHARE, axis=0), 1, -1).astype(np.int8)


def plan(features, targets, costs, folds, judge):
    """The machines: targets of 0 are the fold that is left out."""
    tasks = []
    for column in targets.T:
        parts = [held for _, held in StratifiedKFold(folds).split(column, column)]
        for cost in costs:
            for held in [*parts, np.array([], dtype=np.int64)]:
                told = column.copy()
                told[held] = 0
                tasks.append(Task(features, told, cost, judge))
    return tasks


def by_scikit_learn(task):
    used = task.targets != 0
    machine = LinearSVC(
        C=task.cost,
        class_weight={1: SOLVER.positive_weight, -1: 1},
        dual=True,
        tol=SOLVER.tolerance,
        max_iter=SOLVER.max_iter,
        random_state=SOLVER.random_state,
    )
    return machine.fit(task.features[used], task.targets[used])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=5_011)
    parser.add_argument("--queries", type=int, default=1_000, help="New rows that are scored.")
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--costs", type=float, nargs="+", default=[0.5, 5.0])
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="800 rows of 256 values, 2 classes, once.")
    parser.add_argument("--json", type=Path, help="Write the numbers here too.")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.dim, options.classes, options.repeats = 800, 256, 2, 1

    features, targets = make(options.rows, options.dim, options.classes, seed=1)
    queries, wanted = make(options.queries, options.dim, options.classes, seed=2)
    tasks = plan(features, targets, options.costs, options.folds, lambda machine: machine.decide(queries))

    def serial():
        return np.stack([by_scikit_learn(task).decision_function(queries) for task in tasks])

    def threads():
        with ThreadPoolExecutor(svm.cores()) as pool:
            machines = list(pool.map(by_scikit_learn, tasks))
        return np.stack([machine.decision_function(queries) for machine in machines])

    def ours(count):
        judged = svm.train(
            tasks,
            width=len(queries),
            solver=SOLVER,
            kept=Kept(""),
            name="machines",
            progress=lambda _done, _total: None,
            threads=count,
        )
        return judged.values

    forms = {
        "scikit-learn, serial": serial,
        "scikit-learn, threads": threads,
        "ours, 1 thread": lambda: ours(1),
        f"ours, {svm.cores()} threads": lambda: ours(None),
    }
    seconds, decided = {name: [] for name in forms}, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for _ in range(options.repeats):
            for name, form in forms.items():
                started = time.perf_counter()
                decided[name] = form()
                seconds[name].append(time.perf_counter() - started)

    def score(values):
        whole = values.reshape(options.classes, len(options.costs), options.folds + 1, -1)[:, :, -1]
        found = [
            voc.average_precision(scores, wanted[:, number], difficult="negative")
            for number, of_class in enumerate(whole)
            for scores in of_class
        ]
        return float(np.mean(found)) * 100

    first = next(iter(forms))
    base = statistics.median(seconds[first])
    told = vars(options) | {"json": None, "seconds": seconds, "scikit-learn": sklearn.__version__}
    console = Console()
    table = Table(
        title=f"{len(tasks)} machines on {options.rows} x {options.dim}, {options.classes} classes, "
        f"C {', '.join(f'{cost:g}' for cost in options.costs)}"
    )
    for column in ("form", "seconds", "times as fast", "same", "map"):
        table.add_column(column, justify="left" if column == "form" else "right", no_wrap=True)
    for name, times in seconds.items():
        median = statistics.median(times)
        same = np.array_equal(decided[name], decided[first])
        told[f"same, {name}"], told[f"map, {name}"] = same, score(decided[name])
        table.add_row(
            name,
            f"{median:.2f}",
            f"{base / median:.2f}",
            "yes" if same else "no",
            f"{score(decided[name]):.12f}",
        )
    console.print(table)
    console.print(
        f"{svm.cores()} cores, {platform.processor() or platform.machine()}, scikit-learn {sklearn.__version__}"
    )
    if options.json:
        options.json.write_text(json.dumps(told, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()

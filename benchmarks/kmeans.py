"""Time of k-means against scikit-learn's and against its bare matrix products, and how well both find classes.

    python benchmarks/kmeans.py                    # 20,000 rows, 2,048 dimensions, 100 clusters
    python benchmarks/kmeans.py --quick            # a second or two: tries the script, says little

The forms take turns in one process, each turn with another seed, after a turn of one iteration that does not count;
medians are given. Ours: `kmeans.fit`, by distance as scikit-learn's, and spherical as the card cluster@carp has it.
scikit-learn: `KMeans` with `init="random"`, Lloyd's algorithm and `tol=0`, the same iterations and restarts. Bare
products: for each iteration of each restart one product of all points with all centres; no search for the nearest, no
new centres. A run that comes to rest ends, in either: times stand for the same work only where the column of iterations
shows that none did.

NMI of the points' clusters with their classes, the mean over the seeds. Random starts find more or fewer classes by
luck, some points apart: scikit-learn is also run from our starts, untimed, and of its restarts too the best is kept.
Points are rectified noise around a point for each class, `--spread` of it, standardised.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import faiss
import sklearn
import torch
from rich.console import Console
from rich.table import Table
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from carp_eval.evaluation import kmeans
from carp_eval.features.rows import standardise

FULL = {"rows": 20_000, "dim": 2048, "clusters": 100, "iterations": 20, "restarts": 2, "repeats": 3}
QUICK = {"rows": 3_000, "dim": 256, "clusters": 20, "iterations": 8, "restarts": 2, "repeats": 3}


def make(rows, dim, num_classes, spread):
    """Points and their classes."""
    labels = torch.arange(rows) % num_classes
    points = torch.randn(rows, dim, generator=torch.Generator().manual_seed(1))
    centres = torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(0))
    points = points.add_(centres[labels], alpha=spread).relu_()
    return standardise(points, points[:1])[0], labels.numpy()


def forms_of(points, options):
    """What is timed: functions of a seed and a number of iterations that return clusters and iterations done."""
    array, restarts, clusters = points.numpy(), options.restarts, options.clusters
    similarities = torch.empty(len(points), clusters)

    def products(seed, iterations):
        centres = points[seed : seed + clusters].clone()
        for _ in range(iterations * restarts):
            torch.mm(points, centres.T, out=similarities)
        return None, iterations * restarts

    def ours(seed, iterations, *, spherical):
        found = kmeans.fit(
            points,
            clusters=clusters,
            iterations=iterations,
            restarts=restarts,
            spherical=spherical,
            points_per_centre=0,
            seed=seed,
        )
        return found, found.iterations

    def theirs(seed, iterations):
        model = KMeans(
            clusters, init="random", n_init=restarts, max_iter=iterations, tol=0, random_state=seed
        ).fit(array)
        # Of the restarts it tells the best one's iterations alone.
        return model, model.n_iter_ * restarts

    return {
        "bare products": products,
        "ours": lambda seed, iterations: ours(seed, iterations, spherical=False),
        "ours, spherical": lambda seed, iterations: ours(seed, iterations, spherical=True),
        "scikit-learn": theirs,
    }


def from_our_starts(points, options, seed):
    """scikit-learn's clusters from the points that our restarts start from."""
    fitted = []
    for restart in range(options.restarts):
        rows = kmeans.starting_rows(len(points), clusters=options.clusters, restart=restart, seed=seed)
        start = points.numpy()[rows]
        model = KMeans(options.clusters, init=start, n_init=1, max_iter=options.iterations, tol=0)
        fitted.append(model.fit(points.numpy()))
    return min(fitted, key=lambda model: model.inertia_)


def nmi_of(found, points, labels):
    if found is None:
        return None
    assigned = found.labels_ if isinstance(found, KMeans) else kmeans.assign(points, found)
    return 100 * normalized_mutual_info_score(labels, assigned)


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in FULL.items():
        parser.add_argument(f"--{name}", type=int, help=f"Default: {value}, with --quick {QUICK[name]}.")
    parser.add_argument("--spread", type=float, default=0.22, help="How far classes are apart.")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, help="Write the numbers here too.")
    options = parser.parse_args()
    for name, value in (QUICK if options.quick else FULL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main():
    options = parse()
    points, labels = make(options.rows, options.dim, options.clusters, options.spread)
    forms = forms_of(points, options)
    seconds, scores, iterations = ({name: [] for name in forms} for _ in range(3))
    for turn in range(options.repeats + 1):
        for name, form in forms.items():
            started = time.perf_counter()
            found, done = form(turn, options.iterations if turn else 1)
            if turn:
                seconds[name].append(time.perf_counter() - started)
                iterations[name].append(done)
                scores[name].append(nmi_of(found, points, labels))
    same_starts = [
        nmi_of(from_our_starts(points, options, seed), points, labels)
        for seed in range(1, options.repeats + 1)
    ]
    floor, theirs = (statistics.median(seconds[name]) for name in ("bare products", "scikit-learn"))
    shape = f"{options.rows} rows x {options.dim}, {options.clusters} clusters"
    table = Table(
        title=f"{shape}, {options.iterations} iterations, {options.restarts} restarts, {options.repeats} seeds"
    )
    for column in ("form", "median s", "lowest", "iterations", "x products", "sklearn's / it", "NMI"):
        table.add_column(column, justify="left" if column == "form" else "right")
    for name, times in seconds.items():
        median, mine = statistics.median(times), scores[name]
        table.add_row(
            name,
            f"{median:.2f}",
            f"{min(times):.2f}",
            ", ".join(str(done) for done in sorted(set(iterations[name]))),
            f"{median / floor:.3f}",
            f"{theirs / median:.2f}",
            "" if mine[0] is None else f"{statistics.mean(mine):.2f}",
        )
    table.add_row("scikit-learn, our starts", "", "", "", "", "", f"{statistics.mean(same_starts):.2f}")
    console = Console()
    console.print(table)
    console.print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}, "
        f"PyTorch {torch.__version__}, FAISS {faiss.__version__}, scikit-learn {sklearn.__version__}"
    )
    if options.json:
        told = vars(options) | {
            "json": None,
            "seconds": seconds,
            "iterations": iterations,
            "nmi": scores | {"scikit-learn, our starts": same_starts},
        }
        options.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()

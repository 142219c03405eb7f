"""Time of the k-NN evaluation against one call of FAISS's exact search.

    python benchmarks/knn.py                       # 10,000 queries, 50,000 rows, 2,048 dimensions, k = 200
    python benchmarks/knn.py --features signed     # the hardest case: see below

The forms take turns in one process, after a turn on a tenth of the queries that does not count; medians are given.
FAISS: one `IndexFlatIP.search` of all queries; its index is built before. Ours: `knn.classify`, that is the search,
the float64 comparison of near-equals, the vote for k = 10, 20, 100 and 200, and the ranking of classes. With
`float16` the bank is converted and normalised within the time, with `float32` it is ready.

Features: `classes` are rectified noise around a point for each class, as a network's pooled features are. `signed` is
plain Gaussian noise: the similarities of its neighbours lie so close that float32 can tell the fewest apart.

Beside the times: how many of the neighbours of some queries are those of a brute force in float64.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import faiss
import torch
from rich.console import Console
from rich.table import Table

from carp_eval.evaluation import knn
from carp_eval.features.rows import unit_rows
from carp_eval.features.search import search

NEIGHBOURS = (10, 20, 100, 200)
CHECKED_QUERIES = 200


def make(kind, rows, dim, num_classes, seed):
    """Features and labels."""
    labels = torch.randint(num_classes, (rows,), generator=torch.Generator().manual_seed(seed))
    features = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed + 1))
    if kind == "classes":
        centres = torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(0))
        features.add_(centres[labels]).relu_()
    return features, labels


def share_of_neighbours_right(bank, queries, k, chunk):
    """Compare with every inner product in float64, equal ones in the order of rows."""
    asked = queries[:CHECKED_QUERIES]
    similarities = torch.cat([asked.double() @ part.double().T for part in bank.split(8192)], dim=1)
    wanted = similarities.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return (search(bank, asked, k=k, chunk=chunk).indices == wanted).double().mean().item()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--features", choices=["classes", "signed"], default="classes")
    parser.add_argument("--chunks", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="Write the numbers here too.")
    options = parser.parse_args()

    raw, labels = make(options.features, options.rows, options.dim, options.classes, seed=1)
    queries = unit_rows([make(options.features, options.queries, options.dim, options.classes, seed=3)[0]])
    bank, half = unit_rows([raw]), raw.half()
    del raw
    k = [number for number in NEIGHBOURS if number <= options.rows]
    index = faiss.IndexFlatIP(options.dim)
    index.add(bank.numpy())

    def ours(asked, chunk, *, stored):
        features = bank if stored == "float32" else unit_rows(half.split(4096))
        knn.classify(features, labels, asked, k=k, num_classes=options.classes, chunk=chunk)

    forms = {"FAISS, one call": lambda asked: index.search(asked.numpy(), k[-1])}
    for chunk in options.chunks:
        for stored in ("float32", "float16"):
            name = f"ours, {stored} bank, chunks of {chunk}"
            forms[name] = lambda asked, chunk=chunk, stored=stored: ours(asked, chunk, stored=stored)
    seconds = {name: [] for name in forms}
    for turn in range(options.repeats + 1):
        for name, form in forms.items():
            started = time.perf_counter()
            form(queries[: len(queries) // 10] if turn == 0 else queries)
            if turn:
                seconds[name].append(time.perf_counter() - started)

    floor = statistics.median(seconds["FAISS, one call"])
    table = Table(
        title=f"{options.queries} queries x {options.rows} rows x {options.dim}, k = {k[-1]}, {options.features}"
    )
    for column in ("form", "seconds (median)", "lowest", "x FAISS"):
        table.add_column(column, justify="left" if column == "form" else "right")
    for name, times in seconds.items():
        median = statistics.median(times)
        table.add_row(name, f"{median:.2f}", f"{min(times):.2f}", f"{median / floor:.3f}")
    right = {chunk: share_of_neighbours_right(bank, queries, k[-1], chunk) for chunk in options.chunks}
    console = Console()
    console.print(table)
    console.print(f"neighbours as in float64 ({CHECKED_QUERIES} queries), by chunk: {right}")
    console.print(
        f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, FAISS {faiss.__version__}"
    )
    if options.json:
        told = vars(options) | {"json": None, "seconds": seconds, "right": right, "faiss": faiss.__version__}
        options.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()

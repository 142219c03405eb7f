"""Approximate search: what an index costs to make, and finds, against the exact search.

    python benchmarks/index.py /tmp/banks                      # 1,281,167 x 2,048, as ImageNet: 5.2 GB, and the index
    python benchmarks/index.py /tmp/banks --rows 100000 --kinds hnsw ivf ivf-pq

The bank is written to the folder in the bank's own format, shard by shard, if it is not there yet; so are its queries.
Features are synthetic: rectified, in classes, each of several groups, in a space of fewer directions than they are
wide, as a trained network's pooled features lie. Up to six tenths of a group's rows have the next class's label, so
that votes are close and accuracy tells of missed neighbours. Each index is made by `build`, as `carp bank index` does.

Told of each: the seconds to make it, the memory of its own that this took (of the --memory-gib that it may), its
bytes, its recall on rows of the bank (by which it was tuned) and on new queries, the median and 95th percentile of the
milliseconds for a query that comes alone, and the k-NN accuracy on the new queries beside that of the exact search. The
goals: within 0.2 points, and a query in under 200 ms.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time
from pathlib import Path

import faiss
import private_memory
import synthetic_bank
import torch
from rich.console import Console
from rich.table import Table

from carp_eval.evaluation import knn
from carp_eval.features.bank import RECORD, Bank
from carp_eval.features.indexes import index as indexing
from carp_eval.features.indexes.choice import KINDS
from carp_eval.features.rows import unit_rows
from carp_eval.features.search.streamed import search_bank

GROUPS_PER_CLASS = 8
DIRECTIONS = 256
SHARD_ROWS = 16_384


def features(labels, *, dim, num_classes, seed):
    """Rectified mixtures of a few directions: classes, groups within them, noise; and labels, some of them moved."""
    fixed = torch.Generator().manual_seed(0)
    directions = torch.randn(DIRECTIONS, dim, generator=fixed) / DIRECTIONS**0.5
    classes = torch.randn(num_classes, DIRECTIONS, generator=fixed)
    groups = torch.randn(num_classes * GROUPS_PER_CLASS, DIRECTIONS, generator=fixed)
    moved = 0.6 * torch.rand(len(groups), generator=fixed)
    random = torch.Generator().manual_seed(seed)
    group = labels * GROUPS_PER_CLASS + torch.randint(GROUPS_PER_CLASS, labels.shape, generator=random)
    places = classes[labels] + 0.7 * groups[group]
    places += 1.2 * torch.randn(len(labels), DIRECTIONS, generator=random)
    values = torch.relu(places @ directions + 0.3 * torch.randn(len(labels), dim, generator=random))
    other = torch.rand(len(labels), generator=random) < moved[group]
    return values, (labels + other) % num_classes


def grouped(kind, start, rows, dim, num_classes, *, seed):
    """A block of such features, by its rows' numbers."""
    del kind
    own_seed = seed * 1_000_003 + start // SHARD_ROWS
    labels = torch.randint(num_classes, (rows,), generator=torch.Generator().manual_seed(own_seed + 1))
    return features(labels, dim=dim, num_classes=num_classes, seed=own_seed)


def make_bank(folder, rows, dim, num_classes, *, seed):
    """Write a bank of so many rows, or open it."""
    if (folder / RECORD).exists():
        return Bank.open(folder)
    return synthetic_bank.write(
        folder, "groups", rows, dim, num_classes, seed=seed, make=grouped, shard_rows=SHARD_ROWS
    )


def top1(near, bank, queries, k):
    """k-NN accuracy, in percent."""
    found = knn.tally(near, bank.labels, k=[k], temperatures=[0.07], num_classes=len(bank.class_names))
    (ranking,) = found.rankings.values()
    return 100 * (ranking[:, 0] == queries.labels).double().mean().item()


def share(near, exact):
    """Share of the exact neighbours found, in percent."""
    pairs = zip(near.indices, exact.indices, strict=True)
    right = sum(torch.isin(wanted, got).sum().item() for got, wanted in pairs)
    return 100 * right / exact.indices.numel()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="Where banks and indexes are written, and stay.")
    parser.add_argument("--rows", type=int, default=1_281_167)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--alone", type=int, default=100, help="Queries that are timed one by one.")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["ivf", "ivf-pq"])
    parser.add_argument("--recall", type=float, default=0.99)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--memory-gib", type=float, default=2.0)
    parser.add_argument("--json", type=Path, help="Write the numbers here too.")
    options = parser.parse_args()

    name = f"{options.rows}x{options.dim}"
    bank = make_bank(options.folder / f"bank-{name}", options.rows, options.dim, options.classes, seed=1)
    queries = make_bank(
        options.folder / f"queries-{name}-{options.queries}",
        options.queries,
        options.dim,
        options.classes,
        seed=2,
    )
    asked = unit_rows(queries.shards())
    memory = int(options.memory_gib * 2**30)
    started = time.perf_counter()
    exact = search_bank(bank, asked, k=options.k, memory=memory)
    exact_seconds = time.perf_counter() - started
    exact_top1 = top1(exact, bank, queries, options.k)

    table = Table(title=f"{options.rows:,} rows x {options.dim}, k = {options.k}, recall {options.recall:g}")
    columns = (
        "index",
        "built in s",
        "took MB",
        "bytes",
        "probe",
        "candidates",
        "recall %",
        "on new %",
        "ms alone",
        "p95",
    )
    for column in (*columns, "queries/s", "top-1", "- exact"):
        table.add_column(column, justify="left" if column == "index" else "right")
    table.add_row(
        *("exact", "", "", "", "", "", "", "100", "", ""),
        f"{len(asked) / exact_seconds:.1f}",
        f"{exact_top1:.2f}",
        "",
    )
    told = []
    for kind in options.kinds:
        # Opened anew: what the search above has kept is not the index's.
        with private_memory.watched() as took:
            index = indexing.build(
                Bank.open(bank.path), kind=kind, recall=options.recall, k=options.k, memory=memory
            )
        record = index.record
        taken = []
        for query in asked[: options.alone].split(1):
            started = time.perf_counter()
            index.search(query, k=options.k)
            taken.append(1000 * (time.perf_counter() - started))
        started = time.perf_counter()
        near = index.search(asked, k=options.k)
        together = len(asked) / (time.perf_counter() - started)
        reached, ours = share(near, exact), top1(near, bank, queries, options.k)
        median, late = statistics.median(taken), sorted(taken)[int(0.95 * len(taken))]
        table.add_row(
            f"{kind} ({record.design.factory or 'none'})",
            f"{record.seconds:.1f}",
            f"{took[0] / 1e6:,.0f}",
            f"{record.bytes:,}",
            str(record.probe),
            f"{record.candidates:g}",
            f"{100 * record.recall.value:.2f}",
            f"{reached:.2f}",
            f"{median:.1f}",
            f"{late:.1f}",
            f"{together:.1f}",
            f"{ours:.2f}",
            f"{ours - exact_top1:+.2f}",
        )
        told.append(
            record.model_dump(mode="json", exclude={"built"})
            | {"took_bytes": took[0], "may_take_bytes": memory}
            | {"recall_on_new": reached, "ms": median, "ms_p95": late, "top1": ours, "bytes": record.bytes}
        )
    console = Console(width=max(160, Console().width))
    console.print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print(
        f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, FAISS {faiss.__version__}; peak "
        f"resident memory {peak:.1f} GiB, the mapped files' pages among it"
    )
    if options.json:
        numbers = {"rows": options.rows, "dim": options.dim, "exact_top1": exact_top1, "peak_gib": peak}
        numbers |= {"exact_seconds": exact_seconds, "indexes": told}
        options.json.write_text(json.dumps(numbers, indent=2, default=str) + "\n")


if __name__ == "__main__":
    main()

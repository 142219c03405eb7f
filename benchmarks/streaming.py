"""An iteration of k-means and an epoch of the linear grid on a bank larger than memory, against the floor of its bytes.

    python benchmarks/streaming.py FOLDER                    # 1,281,167 rows x 2,048, 1,000 classes: 5.2 GB in FOLDER
    python benchmarks/streaming.py FOLDER --memory 2GB       # as on a smaller machine
    python benchmarks/streaming.py FOLDER --quick            # seconds: tries the script, says little

The bank is written to FOLDER unless it is there. Features are rectified noise around a point for each class, and are
standardised as the cards cluster@carp and linear@cached-grid have it.

Floors: the time to read all files of the bank once from its beginning to its end, after the system was asked to drop
their pages (cold), and again (warm); and bare float32 products of the same sizes, of rows that lie ready in memory,
measured on a slice and multiplied up to the whole. k-means: one product of each row with all centres an iteration.
Grid: two products of each batch with all weights an epoch.

k-means: a first iteration after the pages were dropped, and a second one. `drawn` fits 256 rows a cluster, as faiss and
the card have it: they are read once, before. The grid: an epoch of its first pairs of learning rate and weight decay,
held as it is stored if --memory allows, and by windows in the memory that --small allows. Memory is the most that the
process held in pages of its own, above what it held before.
"""

import argparse
import json
import os
import platform
import time
from itertools import product
from pathlib import Path

import faiss
import synthetic_bank
import torch
from private_memory import watched
from rich.console import Console
from rich.table import Table

from carp_eval.cards import loading
from carp_eval.commands.options import memory_size
from carp_eval.errors import BankError
from carp_eval.evaluation import grid_rows, kmeans, kmeans_streamed, linear_grid, scaled
from carp_eval.features.bank import Bank
from carp_eval.features.memory import default_budget

READ_AT_ONCE = 2**24
SLICE_SECONDS = 5.0


def opened(options):
    """The bank, written if it is not there."""
    try:
        bank = Bank.open(options.folder)
    except BankError:
        return synthetic_bank.write(options.folder, "classes", options.rows, options.dim, options.classes)
    there = (len(bank), bank.dim, len(bank.class_names))
    if there != (options.rows, options.dim, options.classes):
        raise SystemExit(f"{options.folder} holds another bank, of {there}: give an empty folder")
    return bank


def drop_pages(bank):
    """Ask the system to forget the bank's files, where it can be asked."""
    if not hasattr(os, "posix_fadvise"):
        return
    for shard in bank.record.shards:
        with (bank.path / shard.file).open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_once(bank):
    buffer = bytearray(READ_AT_ONCE)
    started = time.perf_counter()
    for shard in bank.record.shards:
        with (bank.path / shard.file).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - started


def per_row(work, rows):
    """Seconds that some work takes for each of its rows, over some seconds, after a first time that does not count."""
    work()
    started, times = time.perf_counter(), 0
    while time.perf_counter() - started < SLICE_SECONDS:
        work()
        times += 1
    return (time.perf_counter() - started) / times / rows


def products_of_kmeans(count, dim, clusters):
    points, centres = torch.randn(kmeans_streamed.MOST_SLAB_ROWS, dim), torch.randn(clusters, dim)
    found = torch.empty(len(points), clusters)
    return count * per_row(lambda: torch.mm(points, centres.T, out=found), len(points))


def products_of_grid(count, dim, width, batch_size):
    batch, weights = torch.randn(batch_size, dim), torch.zeros(dim, width)
    scores, gradient = torch.zeros(batch_size, width), torch.zeros_like(weights)

    def step():
        torch.mm(batch, weights, out=scores)
        torch.mm(batch.T, scores, out=gradient)

    return count * per_row(step, batch_size)


def iterations_of(fit):
    """Seconds until the first iteration is done and of the second one, as progress tells them, and the memory held."""
    told = [time.perf_counter()]
    with watched() as most:
        fit(lambda done, _: told.append(time.perf_counter()) if done else None)
    return told[1] - told[0], told[2] - told[1], most[0]


def time_kmeans(bank, rows, options, add):
    settings = {
        "clusters": options.classes,
        "iterations": 2,
        "restarts": 1,
        "spherical": True,
        "seed": 0,
    }
    chosen = kmeans.drawn(len(rows), clusters=options.classes, points_per_centre=256, seed=0)
    points = len(rows) if chosen is None else len(chosen)
    floor = products_of_kmeans(points, bank.dim, options.classes)

    def drawn(progress):
        matrix = rows.slab(0, points) if chosen is None else rows.take(torch.from_numpy(chosen).long())
        kmeans.fit(matrix, **settings, points_per_centre=0, progress=progress)

    drop_pages(bank)
    first, second, most = iterations_of(drawn)
    add(f"k-means, {points:,} drawn: rows and iteration", first, floor, most)
    add("k-means, drawn: iteration", second, floor, most)
    floor = products_of_kmeans(len(rows), bank.dim, options.classes)
    at_once = kmeans_streamed.slab_rows(rows, clusters=options.classes, restarts=1, budget=options.memory)

    def streamed(progress):
        kmeans_streamed.fit(rows, **settings, points_per_centre=0, at_once=at_once, progress=progress)

    drop_pages(bank)
    first, second, most = iterations_of(streamed)
    add(f"k-means, all rows, {at_once:,} at once: cold", first, floor, most)
    add("k-means, all rows: warm", second, floor, most)


def time_grid(bank, rows, options, add):
    card = loading.protocol_card("linear", "cached-grid", {})
    pairs = list(product(card.learning_rates, card.weight_decays))
    for count in options.pairs:
        rates, decays = torch.tensor(pairs[:count], dtype=torch.float64).unbind(dim=1)
        width = count * options.classes
        floor = products_of_grid(len(rows), bank.dim, width, card.batch_size)
        beside = linear_grid.memory_of(dim=bank.dim, width=width, batch_size=card.batch_size, count=len(rows))
        for budget in (options.memory, beside + options.small):
            drop_pages(bank)
            with watched() as most:
                started = time.perf_counter()
                features = grid_rows.within(bank, rows, budget=budget - beside, batch_size=card.batch_size)
                if features is None:
                    raise SystemExit(f"{count} pairs need more memory than {budget:,} bytes")
                ready = time.perf_counter()
                linear_grid.train(
                    features,
                    bank.labels,
                    torch.arange(len(rows)),
                    learning_rates=rates,
                    weight_decays=decays,
                    num_classes=options.classes,
                    epochs=1,
                    batch_size=card.batch_size,
                    momentum=card.momentum,
                    seed=0,
                )
                done = time.perf_counter()
            form = "by windows" if features.notes else "in memory"
            if not features.notes:
                add(f"grid: rows {form}", ready - started, None, most[0])
            add(f"grid, {count} pairs {form}: epoch", done - ready, floor, most[0])
            del features


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_281_167)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1000, help="Classes of the grid, clusters of k-means.")
    parser.add_argument(
        "--pairs", type=int, nargs="+", default=[1], help="Pairs trained at once; several in turn."
    )
    parser.add_argument("--memory", type=memory_size, default=default_budget())
    parser.add_argument("--small", type=memory_size, default=memory_size("1GB"), help="For windows of rows.")
    parser.add_argument("--parts", nargs="+", choices=("kmeans", "grid"), default=["kmeans", "grid"])
    parser.add_argument("--json", type=Path, help="Write the numbers here too.")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.dim, options.classes = 100_000, 256, 50
        options.small = memory_size("120MB")
    return options


def main():
    options = parse()
    bank = opened(options)
    drop_pages(bank)
    cold, warm = read_once(bank), read_once(bank)
    size = sum(shard.size for shard in bank.record.shards)
    table = Table(
        title=f"{len(bank):,} rows x {bank.dim}, {options.classes} classes, {size / 1e9:.2f} GB on disk"
    )
    for column in ("work", "seconds", "x cold read", "x warm read", "x products", "GB held"):
        table.add_column(column, justify="left" if column == "work" else "right")
    told = []

    def add(what, seconds, floor, most):
        products = "" if floor is None else f"{seconds / floor:.2f}"
        table.add_row(
            what,
            f"{seconds:.2f}",
            f"{seconds / cold:.2f}",
            f"{seconds / warm:.2f}",
            products,
            "" if most is None else f"{most / 1e9:.2f}",
        )
        told.append({"work": what, "seconds": seconds, "products": floor, "bytes": most})

    add("files read once, cold", cold, None, None)
    add("files read once, warm", warm, None, None)
    drop_pages(bank)
    with watched() as most:
        started = time.perf_counter()
        rows, _ = scaled.both(bank, bank, how="standardised")
        seconds = time.perf_counter() - started
    add("lengths, means and deviations", seconds, None, most[0])
    if "kmeans" in options.parts:
        time_kmeans(bank, rows, options, add)
    if "grid" in options.parts:
        time_grid(bank, rows, options, add)
    console = Console()
    console.print(table)
    console.print(
        f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}, "
        f"PyTorch {torch.__version__}, FAISS {faiss.__version__}, --memory {options.memory:,}"
    )
    if options.json:
        sizes = {"rows": len(bank), "dim": bank.dim, "classes": options.classes, "memory": options.memory}
        options.json.write_text(
            json.dumps({**sizes, "cold": cold, "warm": warm, "work": told}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()

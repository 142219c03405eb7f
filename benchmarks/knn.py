"""Time of exact k-NN from a bank on disk, against the bare product and against what others do.

    python benchmarks/knn.py                                   # ImageNet's size, measured on a slice
    python benchmarks/knn.py --slice-rows 1281167 --slice-queries 50000 --only floor streamed    # the whole; hours

A slice of the bank and of the queries is measured, and the whole extrapolated by the number of products: it says so.
What each row costs once (conversion) is spread over fewer queries on a slice, and what each query costs once (float64
comparison, vote) over fewer rows: the ratios of the whole are lower than those of the slice, for ours and for others.
The forms take turns in one process, after a turn on a tenth of the queries that does not count; medians are given.

Floor: the bare product of the same float32 matrices, in blocks, by the faster of torch's and numpy's libraries; its
result is thrown away. Ours: `streamed.stream` from a float16 bank on disk in the memory budget, which lets bf16 choose
and proves that it missed nothing, or searches again; the same by float32; without the proof (`--search bf16`); and
`search` of the same bank read into memory. Each does all that an evaluation does: conversion, scaling, comparison in
float64, vote. bf16 has a floor of its own, torch's bf16 product. Others: `faiss.knn`, one call; scikit-learn's
`KNeighborsClassifier` (brute, cosine); and a chunked torch loop as DINO's evaluation does it (500 queries at a time, as
that makes of ImageNet's 50,000: product, topk, one-hot scatter, weighted sum). They get float32 features of length one,
ready in memory, and vote by the same weights.

With --device cuda: the product on the GPU, and ours there.

Beside the times: top-1 of each form, how many answers differ from ours, how many neighbours of some queries are those
of a brute force in float64, and bf16's overlap with the exact neighbours.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import synthetic_bank
import torch
from rich.console import Console
from rich.table import Table
from sklearn.neighbors import KNeighborsClassifier

from carp_eval.commands.options import memory_size
from carp_eval.evaluation import knn
from carp_eval.features import memory
from carp_eval.features.bank import Bank
from carp_eval.features.rows import unit_rows
from carp_eval.features.search.in_memory import search
from carp_eval.features.search.overlap import measured_overlap
from carp_eval.features.search.search_plan import plan_for
from carp_eval.features.search.streamed import stream

CHECKED_QUERIES = 100
BLOCK_ROWS, BLOCK_QUERIES = 8192, 4096
DINO_CHUNK = 500
TEMPERATURE = 0.07


def product(queries, bank):
    for asked in queries.split(BLOCK_QUERIES):
        for rows in bank.split(BLOCK_ROWS):
            torch.mm(asked, rows.T)
    if queries.is_cuda:
        torch.cuda.synchronize()


def numpy_product(queries, bank):
    for asked in queries.split(BLOCK_QUERIES):
        for rows in bank.split(BLOCK_ROWS):
            np.matmul(asked.numpy(), rows.numpy().T)


def answers(near, labels, k, num_classes):
    found = knn.tally(near, labels, k=[k], temperatures=[TEMPERATURE], num_classes=num_classes)
    return found.rankings[k, TEMPERATURE][:, 0]


def loop_of_dino(queries, bank, labels, k, num_classes):
    """The vote in chunks, as the script's authors describe it: all similarities, the k highest, one-hot classes."""
    named = []
    transposed = bank.T
    for asked in queries.split(DINO_CHUNK):
        similarities, rows = torch.mm(asked, transposed).topk(k, dim=1)
        one_hot = torch.zeros(len(asked) * k, num_classes)
        one_hot.scatter_(1, labels[rows].view(-1, 1), 1)
        weights = (similarities / TEMPERATURE).exp().view(len(asked), k, 1)
        votes = (one_hot.view(len(asked), k, num_classes) * weights).sum(dim=1)
        named.append(votes.argmax(dim=1))
    return torch.cat(named)


def by_sklearn(queries, bank, labels, k):
    voting = KNeighborsClassifier(
        k, algorithm="brute", metric="cosine", weights=lambda distance: np.exp((1 - distance) / TEMPERATURE)
    )
    return torch.from_numpy(voting.fit(bank.numpy(), labels.numpy()).predict(queries.numpy()))


def by_faiss(queries, bank, labels, k, num_classes):
    found, rows = faiss.knn(queries.numpy(), bank.numpy(), k, metric=faiss.METRIC_INNER_PRODUCT)
    votes = knn.vote(
        torch.from_numpy(found),
        labels[torch.from_numpy(rows)],
        num_classes=num_classes,
        temperature=TEMPERATURE,
    )
    return votes.argmax(dim=1)


def forms_of(options, path, ready, labels, k):
    """What is timed, by name: each takes queries and returns what they are taken for, or nothing."""
    classes, device = options.classes, torch.device(options.device)
    moved = ready.to(device)

    def streamed(asked, products, precision="exact"):
        bank = Bank.open(path)
        plan = plan_for(bank, asked, k=k, budget=options.memory, products=products)
        near = stream(bank.stored_rows(normalise=True), asked, plan, k=k, precision=precision, device=device)
        return answers(near, bank.labels, k, classes)

    def in_memory(asked):
        return answers(search(unit_rows(Bank.open(path).shards()), asked, k=k), labels, k, classes)

    half = moved.bfloat16()
    forms = {
        "floor: torch's product": lambda asked: product(asked.to(device), moved),
        "floor: numpy's product": lambda asked: numpy_product(asked, ready),
        "streamed": functools.partial(streamed, products="bf16"),
        "by float32": functools.partial(streamed, products="float32"),
        "in memory": in_memory,
        "floor of bf16: torch's product": lambda asked: product(asked.to(device).bfloat16(), half),
        "streamed, bf16": functools.partial(streamed, products="bf16", precision="bf16"),
        "faiss.knn": lambda asked: by_faiss(asked, ready, labels, k, classes),
        "scikit-learn": lambda asked: by_sklearn(asked, ready, labels, k),
        "a loop as DINO's": lambda asked: loop_of_dino(asked, ready, labels, k, classes),
    }
    on_gpu = ("floor: torch", "streamed", "floor of bf16")
    if device.type == "cuda":
        forms = {name: form for name, form in forms.items() if name.startswith(on_gpu)}
    return {name: form for name, form in forms.items() if name.startswith(tuple(options.only or [""]))}


def share_of_neighbours_right(path, queries, k, options):
    """Compare with every inner product in float64, equal ones in the order of rows."""
    asked = queries[:CHECKED_QUERIES]
    bank = Bank.open(path)
    similarities = torch.cat([asked.double() @ unit_rows([part]).double().T for part in bank.shards()], dim=1)
    wanted = similarities.sort(dim=1, descending=True, stable=True).indices[:, :k]
    plan = plan_for(bank, asked, k=k, budget=options.memory, products="bf16")
    found = stream(bank.stored_rows(normalise=True), asked, plan, k=k, device=torch.device(options.device))
    return (found.indices == wanted).double().mean().item()


def bf16_overlap(path, queries, k, options):
    bank = Bank.open(path)
    plan = plan_for(bank, queries, k=k, budget=options.memory, products="bf16")
    near = stream(
        bank.stored_rows(normalise=True),
        queries,
        plan,
        k=k,
        precision="bf16",
        device=torch.device(options.device),
    )
    return measured_overlap(bank, queries, near, memory=options.memory).right


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_281_167, help="Of the whole.")
    parser.add_argument("--queries", type=int, default=50_000, help="Of the whole.")
    parser.add_argument("--slice-rows", type=int, default=131_072, help="Are measured.")
    parser.add_argument("--slice-queries", type=int, default=8192, help="Are measured.")
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--k", type=int, default=200)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--features", choices=["classes", "signed"], default="classes")
    parser.add_argument("--memory", type=memory_size, default=memory.default_budget())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", help="Forms whose names begin so.")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="Where the bank is written. Default: a temporary folder.")
    parser.add_argument("--json", type=Path, help="Write the numbers here too.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        measure(options, Path(folder))


def measure(options, path):
    rows, count = min(options.slice_rows, options.rows), min(options.slice_queries, options.queries)
    k = min(options.k, rows)
    bank = synthetic_bank.write(path, options.features, rows, options.dim, options.classes)
    labels = bank.labels
    raw, right = synthetic_bank.block(options.features, 0, count, options.dim, options.classes, seed=3)
    queries, ready = unit_rows([raw]), unit_rows(bank.shards())
    del raw
    forms = forms_of(options, path, ready, labels, k)
    seconds, named = {name: [] for name in forms}, {}
    for turn in range(options.repeats + 1):
        for name, form in forms.items():
            started = time.perf_counter()
            named[name] = form(queries[: max(1, count // 10)] if turn == 0 else queries)
            if turn:
                seconds[name].append(time.perf_counter() - started)

    medians = {name: statistics.median(times) for name, times in seconds.items()}
    floor = min((time for name, time in medians.items() if name.startswith("floor:")), default=float("nan"))
    half_floor = medians.get("floor of bf16: torch's product", float("nan"))
    whole = options.rows * options.queries / (rows * count)
    ours = named.get("streamed")
    table = Table(title=f"{count:,} queries x {rows:,} rows x {options.dim}, k = {k}, {options.features}")
    for column in (
        "form",
        "seconds (median)",
        "lowest",
        "x floor",
        "whole, extrapolated",
        "top-1",
        "answers unlike ours",
    ):
        table.add_column(column, justify="left" if column == "form" else "right")
    for name, median in medians.items():
        answered = named[name]
        table.add_row(
            name,
            f"{median:.2f}",
            f"{min(seconds[name]):.2f}",
            f"{median / floor:.3f}" + (f" ({median / half_floor:.3f} of bf16's)" if "bf16" in name else ""),
            f"{median * whole / 60:.1f} min",
            "" if answered is None else f"{(answered == right).double().mean() * 100:.2f}",
            "" if answered is None or ours is None else str(int((answered != ours).sum())),
        )
    console = Console()
    console.print(table)
    console.print(
        f"measured on a slice: 1 of {whole:,.0f} parts of {options.queries:,} queries x {options.rows:,} rows, whose "
        "time is extrapolated from it by the number of products"
    )
    checked = share_of_neighbours_right(path, queries, k, options)
    console.print(f"neighbours of {min(count, CHECKED_QUERIES)} queries that are float64's: {checked:.6f}")
    overlap = bf16_overlap(path, queries, k, options)
    console.print(f"bf16's neighbours that are the exact ones': {overlap:.6f}")
    console.print(
        f"memory {options.memory:,} bytes; {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, FAISS {faiss.__version__}"
    )
    if options.json:
        told = {name: str(value) for name, value in vars(options).items()}
        told |= {"seconds": seconds, "right": checked, "overlap": overlap, "faiss": faiss.__version__}
        options.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()

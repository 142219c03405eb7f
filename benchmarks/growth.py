"""How time and memory grow with a problem's sizes: curves, and the exponents of the laws that fit them.

    python benchmarks/growth.py                                # every part
    python benchmarks/growth.py search --axes rows k           # one part, two of its axes
    python benchmarks/growth.py search --share 0.1             # a tenth of the rows, to see that it works

Each point is measured in a process of its own, which makes its data, does a tenth of the work without counting it,
then all of it. Memory is the highest that the process holds in pages of its own, above what it held before; pages of
files, which the system may drop, do not count. An exponent is the slope of a least-squares line through the logarithms:
1 is linear. Where a part has a fixed cost, small sizes bend the line: the exponent of the upper half stands beside it.

A part is a function that takes sizes and returns what is to be timed; `PARTS` names them with their axes.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from private_memory import watched
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Part:
    """Something whose growth is measured.

    Attributes:
        make: Takes sizes by name and a folder for files, and returns the work, which takes a share of itself to do.
        sizes: Each size where another one is varied.
        axes: What is varied, and through which values.
        shrinks: The size that --share takes a part of.
    """

    make: Callable[..., Callable[[float], object]]
    sizes: dict[str, int]
    axes: dict[str, tuple[int, ...]]
    shrinks: str


def search(folder, *, rows, dim, k, queries, memory):
    """Exact search of a float16 bank on disk, streamed in a fixed budget, by the products that are faster here."""
    import synthetic_bank
    import torch

    from carp_eval.features.bank import Bank
    from carp_eval.features.rows import unit_rows
    from carp_eval.features.search import bf16
    from carp_eval.features.search.search_plan import plan_for
    from carp_eval.features.search.streamed import stream

    synthetic_bank.write(folder, "classes", rows, dim, 100)
    asked = unit_rows([synthetic_bank.block("classes", 0, queries, dim, 100, seed=3)[0]])

    products = "bf16" if bf16.is_faster(torch.device("cpu"), dim) else "float32"

    def work(share):
        bank, part = Bank.open(folder), asked[: max(1, int(share * queries))]
        plan = plan_for(bank, part, k=k, budget=memory, products=products)
        return stream(bank.stored_rows(normalise=True), part, plan, k=k)

    return work


def kmeans(folder, *, rows, dim, clusters, iterations):
    """Lloyd's iterations on rows that lie in memory."""
    del folder
    import synthetic_bank

    from carp_eval.evaluation import kmeans

    features = synthetic_bank.block("classes", 0, rows, dim, 100, seed=3)[0]

    def work(share):
        return kmeans.fit(
            features,
            clusters=clusters,
            iterations=max(1, round(share * iterations)),
            restarts=1,
            spherical=False,
            points_per_centre=0,
            seed=0,
        )

    return work


def loss(folder, *, prototypes, block, images):
    """CARP's loss and its gradients, of two views, d = 256; a step cannot be done in part."""
    del folder
    import torch

    from carp_eval.pretrain import partition
    from carp_eval.pretrain.carp_loss import carp_loss

    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, images, 256, generator=generator).unbind()
    learnt, followed = torch.randn(2, prototypes, 256, generator=generator).unbind()
    blocks = partition.draw(prototypes, block_size=block, generator=generator)
    student.requires_grad_()
    learnt = learnt.clone().requires_grad_()

    def work(share):
        del share
        student.grad = learnt.grad = None
        carp_loss(student, teacher, learnt, followed, blocks)[0].backward()

    return work


PARTS = {
    "search": Part(
        search,
        {"rows": 100_000, "dim": 512, "k": 20, "queries": 1000, "memory": 500_000_000},
        {
            "rows": (10_000, 30_000, 100_000, 300_000, 1_000_000),
            "dim": (64, 128, 256, 512, 1024, 2048),
            "k": (1, 10, 100, 1000),
            "queries": (100, 300, 1000, 3000, 10_000),
        },
        "rows",
    ),
    "kmeans": Part(
        kmeans,
        {"rows": 50_000, "dim": 256, "clusters": 100, "iterations": 10},
        {
            "rows": (10_000, 30_000, 100_000, 300_000, 1_000_000),
            "dim": (64, 128, 256, 512, 1024, 2048),
            "clusters": (10, 30, 100, 300, 1000),
        },
        "rows",
    ),
    "loss": Part(
        loss,
        {"prototypes": 65_536, "block": 512, "images": 64},
        {
            "prototypes": (16_384, 65_536, 262_144, 1_048_576),
            "block": (64, 128, 256, 512, 1024),
            "images": (16, 32, 64, 128, 256),
        },
        "prototypes",
    ),
}


def measure(part, sizes):
    """Time one point, and the memory it takes, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        work = PARTS[part].make(Path(folder), **sizes)
        work(0.1)
        with watched() as most:
            started = time.perf_counter()
            work(1.0)
            seconds = time.perf_counter() - started
    return {"seconds": seconds, "bytes": most[0]}


def in_a_process(part, sizes):
    command = [sys.executable, __file__, part, "--point", json.dumps(sizes)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(told.stdout.splitlines()[-1])


def exponent(sizes, values):
    """The slope of the least-squares line through the logarithms; not a number where memory did not grow at all."""
    if len(sizes) < 2 or min(values) <= 0:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def draw(part, found, path, *, sizes_else):
    mpl.use("Agg")
    mpl.rcParams |= {"svg.hashsalt": "growth", "svg.fonttype": "none"}
    from matplotlib import pyplot as plt

    figure, places = plt.subplots(
        2, len(found), figsize=(3.4 * len(found), 6), squeeze=False, layout="constrained"
    )
    for column, (axis, points) in enumerate(found.items()):
        sizes = [size for size, _ in points]
        for row, (key, scale, unit) in enumerate((("seconds", 1, "seconds"), ("bytes", 1e6, "MB"))):
            values = [point[key] / scale for _, point in points]
            place = places[row][column]
            place.loglog(sizes, values, "o-")
            place.set_xlabel(axis)
            place.set_title(f"exponent {exponent(sizes, values):.2f}", fontsize=10)
            if column == 0:
                place.set_ylabel(unit)
            place.grid(alpha=0.3)
    told = ", ".join(f"{name} {size:,}" for name, size in sizes_else.items())
    figure.suptitle(f"{part}; where another size is varied: {told}", fontsize=10)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def grow(part, axes, share, console):
    """Measure the points of some axes, and show them as they come."""
    given = PARTS[part]
    base = given.sizes | {given.shrinks: int(share * given.sizes[given.shrinks])}
    found = {}
    for axis in axes:
        table = Table(title=f"{part} against {axis}")
        for column in (axis, "seconds", "MB"):
            table.add_column(column, justify="right")
        found[axis] = []
        smaller = share if axis == given.shrinks else 1
        for size in sorted({int(smaller * value) for value in given.axes[axis]}):
            point = in_a_process(part, base | {axis: size})
            found[axis].append((size, point))
            table.add_row(f"{size:,}", f"{point['seconds']:.3f}", f"{point['bytes'] / 1e6:.1f}")
        console.print(table)
        sizes = [size for size, _ in found[axis]]
        for key in ("seconds", "bytes"):
            values = [point[key] for _, point in found[axis]]
            upper = len(values) // 2
            console.print(
                f"{key} grow with {axis} to the power {exponent(sizes, values):.2f}; "
                f"in the upper half {exponent(sizes[upper:], values[upper:]):.2f}"
            )
    return found, base


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"Of {', '.join(PARTS)}; default: all.")
    parser.add_argument("--axes", nargs="+", help="Default: all of a part.")
    parser.add_argument("--share", type=float, default=1.0, help="Of the size that costs most.")
    parser.add_argument("--output", type=Path, default=HERE, help="Folder of the plots.")
    parser.add_argument("--format", choices=["svg", "png"], default="svg")
    parser.add_argument("--json", type=Path, help="Write the numbers here too.")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        print(json.dumps(measure(options.parts[0], json.loads(options.point))))
        return
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    console, found = Console(), {}
    for part in options.parts or PARTS:
        axes = [axis for axis in PARTS[part].axes if axis in (options.axes or PARTS[part].axes)]
        if not axes:
            parser.error(f"{part} has the axes {', '.join(PARTS[part].axes)}")
        found[part], base = grow(part, axes, options.share, console)
        path = options.output / f"growth-{part}.{options.format}"
        draw(part, found[part], path, sizes_else=base)
        console.print(f"drawn to {path}")
    console.print(f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

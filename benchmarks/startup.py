"""Time of commands that compute little or nothing: what a user waits before anything happens.

    python benchmarks/startup.py                             # 50,000 + 10,000 images made here, 16 x 16
    python benchmarks/startup.py --dataset hf:PATH/cifar10   # or any data set of one's own

Each command is run as a process of its own, so many times, after one run that does not count (it writes Python's
bytecode); minima and medians are given. `carp eval knn` finds its banks ready: the features are extracted before.
Beside its time stand those of `import torch` and of the exact search alone: what is left is what we add.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console
from rich.table import Table

SEARCH = """
import json, sys, time
from carp_eval.features.bank import Bank
from carp_eval.features.rows import unit_rows
from carp_eval.features.search.in_memory import search
bank, queries = (unit_rows(Bank.open(path).shards()) for path in sys.argv[1:3])
search(bank, queries[:1000], k=20)
start = time.perf_counter()
search(bank, queries, k=20)
print(time.perf_counter() - start)
"""


def write_images(folder, counts, size=16, classes=10):
    """Write smooth noise, tinted by class, as PNG in Parquet files."""
    generator = np.random.default_rng(0)
    tints = generator.integers(0, 256, (classes, 3))
    for split, count in counts.items():
        labels = np.arange(count) % classes
        encoded = []
        for label in labels:
            coarse = (generator.integers(0, 256, (4, 4, 3)) + tints[label]) // 2
            buffer = io.BytesIO()
            Image.fromarray(coarse.astype(np.uint8)).resize((size, size), 3).save(buffer, "PNG")
            encoded.append({"bytes": buffer.getvalue(), "path": None})
        (folder / "data").mkdir(parents=True, exist_ok=True)
        table = pa.table({"image": encoded, "label": labels})
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")


def timed(command, repeats, **settings):
    """Seconds of each run of a command, the first left out."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, **settings)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", help="as carp spells it; default: images made here")
    parser.add_argument("--model", default="pixels:digits")
    parser.add_argument("--images", type=int, nargs=2, default=(50_000, 10_000), metavar=("TRAIN", "TEST"))
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    console = Console()
    carp = [sys.executable, "-m", "carp_eval"]
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env |= {"CARP_HOME": str(home / "home")}
        dataset = arguments.dataset
        if dataset is None:
            write_images(home / "images", dict(zip(("train", "test"), arguments.images, strict=True)))
            dataset = f"hf:{home / 'images'}"
        else:
            kind, _, place = dataset.partition(":")
            dataset = f"{kind}:{Path(place).resolve()}" if Path(place).exists() else dataset
        told = subprocess.run(
            [*carp, "extract", "-m", arguments.model, "-d", dataset, "--json"],
            check=True,
            capture_output=True,
            text=True,
            env=env,
            cwd=scratch,
        )
        banks = [row["bank"] for row in json.loads(told.stdout)]
        knn = [*carp, "eval", "knn", "--k", "20", "-m", arguments.model, "-d", dataset]
        commands = {
            "carp --help": [*carp, "--help"],
            "carp zoo list": [*carp, "zoo", "list"],
            "import torch": [sys.executable, "-c", "import torch"],
            "carp eval knn": knn,
        }
        seconds = {
            name: timed(line, arguments.repeats, env=env, cwd=scratch) for name, line in commands.items()
        }
        found = subprocess.run(
            [sys.executable, "-c", SEARCH, *banks], check=True, capture_output=True, text=True, env=env
        )
    table = Table(title=f"start-up, {arguments.repeats} runs each")
    for column in ("command", "least, s", "median, s"):
        table.add_column(column, justify="left" if column == "command" else "right")
    for name, times in seconds.items():
        table.add_row(name, f"{min(times):.2f}", f"{statistics.median(times):.2f}")
    search = float(found.stdout)
    table.add_row("search alone", f"{search:.2f}", "")
    console.print(table)
    added = statistics.median(seconds["carp eval knn"]) - statistics.median(seconds["import torch"]) - search
    console.print(f"carp eval knn, without torch's import and the search: {added:.2f} s (goal: at most 2)")


if __name__ == "__main__":
    main()

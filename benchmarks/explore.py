"""How long the explorer takes to find the neighbours of one image, in banks of many rows on disk.

    python benchmarks/explore.py                               # 100,000 and 1,000,000 rows of 2,048 dimensions
    python benchmarks/explore.py --index ivf                   # with an index too, which takes long to build
    python benchmarks/explore.py --rows 100000 --folder banks  # banks are kept there, and used again

The bank holds random float16 rows, in shards as an extraction writes them: 4 GB for a million. Each way of searching
has a process of its own: `memory` reads the bank once, in float32, and keeps it; `streamed` may take --memory; `index`
is the bank's own. The first query is told apart from the later ones, of which the median and the longest are given.
The times are those that the page shows: from an image of the bank to its neighbours, itself left out. `answer` is all
that the page waits for after the first query: vote, names and places on a map of 2,000 points too. The peak is the
process's own memory, files that the system maps and may drop left out. What is found is compared with `memory`'s.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import synthetic_bank
from rich.console import Console
from rich.table import Table

from carp_eval.features.bank import Bank
from carp_eval.features.indexes import index as indexes
from carp_eval.report.explorer.choosing import Chosen
from carp_eval.report.explorer.exhibit import Exhibit
from carp_eval.report.explorer.side import Side

K, POINTS = 20, 2000


class Peak:
    """The most memory of its own that this process had, looked at twenty times a second."""

    def __init__(self):
        self.bytes = 0
        self._process = psutil.Process()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self):
        while True:
            told = self._process.memory_info()
            self.bytes = max(self.bytes, told.rss - told.shared)
            time.sleep(0.05)


def measure(path, way, queries, memory):
    """Search from a fresh process, and return what it took."""
    peak = Peak()
    bank = Bank.open(path)
    began = time.perf_counter()
    side = Side(
        Chosen(bank, None, ""), Exhibit(bank, None), points=POINTS, memory=memory, approximate=way == "index"
    )
    opened = time.perf_counter() - began
    step = max(1, len(bank) // (queries + 2))
    searches, found = [], []
    for number in range(queries + 1):
        answer = side.searcher.others([number * step], k=K)
        searches.append(answer.milliseconds)
        found.append(answer.near.indices[0].tolist())
    side.map()
    side.of_image(step, k=K)
    began = time.perf_counter()
    side.of_image(2 * step, k=K)
    return {
        "kind": side.searcher.kind,
        "open": 1000 * opened,
        "first": searches[0],
        "median": statistics.median(searches[1:]),
        "longest": max(searches[1:]),
        "answer": 1000 * (time.perf_counter() - began),
        "peak": peak.bytes,
        "found": found,
    }


def ways(rows, dim, options):
    held = 4 * rows * dim
    if held < 0.8 * psutil.virtual_memory().available:
        yield "memory", held + 2**20
    yield "streamed", options.memory * 2**20
    if options.index:
        yield "index", options.memory * 2**20


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--queries", type=int, default=10, help="after the first")
    parser.add_argument("--memory", type=int, default=1024, help="MiB that a streamed search may take")
    parser.add_argument("--index", choices=indexes.choice.KINDS, help="build this index, and search by it")
    parser.add_argument("--folder", type=Path, help="where banks are kept; left out, they are thrown away")
    parser.add_argument("--json", type=Path, help="write the numbers there too")
    parser.add_argument("--one", nargs=3, metavar=("BANK", "WAY", "BYTES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        path, way, memory = options.one
        print(json.dumps(measure(Path(path), way, options.queries, int(memory))))
        return
    table = Table(
        "rows", "search", "open ms", "first ms", "later ms", "longest", "answer ms", "peak MB", "as memory's"
    )
    told = []
    with tempfile.TemporaryDirectory() as scratch:
        for rows in options.rows:
            path = (options.folder or Path(scratch)) / f"{rows}x{options.dim}"
            if not (path / "bank.json").is_file():
                synthetic_bank.write(path, "classes", rows, options.dim, 1000)
            if options.index:
                indexes.build(Bank.open(path), kind=options.index)
            exact = None
            for way, memory in ways(rows, options.dim, options):
                asked = [
                    sys.executable,
                    __file__,
                    "--queries",
                    str(options.queries),
                    "--one",
                    str(path),
                    way,
                    str(memory),
                ]
                one = json.loads(subprocess.run(asked, check=True, stdout=subprocess.PIPE).stdout)
                found = one.pop("found")
                exact = found if way == "memory" else exact
                same = (
                    None
                    if exact is None
                    else sum(len(set(mine) & set(theirs)) for mine, theirs in zip(found, exact, strict=True))
                    / (K * len(found))
                )
                told.append({"rows": rows, "dim": options.dim, "way": way, "same": same, **one})
                table.add_row(
                    f"{rows:,}",
                    one["kind"],
                    *(f"{one[name]:,.0f}" for name in ("open", "first", "median", "longest", "answer")),
                    f"{one['peak'] / 1e6:,.0f}",
                    "-" if same is None else f"{same:.1%}",
                )
    Console(width=140).print(table)
    if options.json:
        options.json.write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()

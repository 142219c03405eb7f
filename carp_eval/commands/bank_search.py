"""`carp bank search`: the nearest rows of a bank, here or on several machines."""

from pathlib import Path
from typing import Annotated

import typer

from carp_eval.commands import options


def search(
    queries: Annotated[
        Path, typer.Argument(metavar="QUERIES", help="A bank of the same model: its rows are asked for.")
    ],
    among: Annotated[
        Path | None,
        typer.Option("--among", metavar="BANK", help="The bank to search, on this machine."),
    ] = None,
    servers: Annotated[
        str | None,
        typer.Option(
            "--servers",
            metavar="HOST:PORT,...",
            help="Those that serve its parts (carp bank serve); they want the token in CARP_TOKEN.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours of each query.")] = 20,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE", help="The Parquet file. Default: neighbours.parquet."),
    ] = None,
    exact: options.ExactSearch = False,
    json: options.Json = False,
) -> None:
    """Find the nearest rows of a bank for each row of another, and write them to a table.

    Its columns are query and its key, rank, row and similarity, which is the cosine. A bank that is searched for itself
    finds each row first.
    """
    import os
    import time

    import torch

    from carp_eval import files
    from carp_eval.commands import progress, tables
    from carp_eval.errors import UsageError
    from carp_eval.features.bank import Bank
    from carp_eval.features.indexes import asking, listing, parts
    from carp_eval.features.indexes.part_search import searcher

    if (among is None) == (servers is None):
        raise UsageError("name what to search: either --among BANK or --servers HOST:PORT,...")
    path = to or Path("neighbours.parquet")
    if path.suffix != ".parquet":
        raise UsageError(f"{path} must end in .parquet, the format it is written in")
    files.check_writable(path.parent)
    asked = Bank.open(queries)
    rows = torch.cat([shard.float() for shard in asked.shards()])
    with progress.bars() as bars:
        if among is not None:
            bank = Bank.open(among)
            bank.check_comparable(asked)
            about, find = searcher(parts.part_of(bank), exact=exact)
            kinds, total = [about.kind], about.rows
            started = time.perf_counter()
            near = find(rows, k, bars("queries"))
        else:
            addresses = [address.strip() for address in str(servers).split(",")]
            several = asking.Servers(addresses, token=os.environ.get("CARP_TOKEN", ""))
            several.check_comparable(asked.fingerprint)
            kinds, total = [about.kind for about in several.abouts], len(several)
            started = time.perf_counter()
            near = several.search(rows, k=k, progress=bars("queries"))
    seconds = time.perf_counter() - started
    listing.write(path, asked, near)
    tables.show_mapping(
        {
            "queries": len(asked),
            "rows": total,
            "k": k,
            "search": kinds,
            "seconds": seconds,
            "file": str(path),
        },
        title=str(queries),
        as_json=json,
    )

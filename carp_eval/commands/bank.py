"""`carp bank`: look into a memory bank, index it, serve it and search it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from carp_eval.commands import options
from carp_eval.commands.bank_search import search
from carp_eval.commands.bank_serve import serve

app = typer.Typer(
    no_args_is_help=True,
    help="Look into a memory bank, make an index of it for fast searches, and search it on one machine or several.",
)
app.command()(search)
app.command()(serve)

BankPath = Annotated[
    Path, typer.Argument(metavar="BANK", help="A bank's folder, as `carp extract` prints it.")
]


class KindChoice(StrEnum):
    """Which sort of index."""

    auto = "auto"
    flat = "flat"
    hnsw = "hnsw"
    ivf = "ivf"
    ivf_pq = "ivf-pq"


@app.command()
def info(path: BankPath, json: options.Json = False) -> None:
    """Say what is inside a bank, and which indexes lie beside it."""
    from carp_eval.commands import tables
    from carp_eval.features.bank import Bank
    from carp_eval.features.indexes import record as records

    bank = Bank.open(path)
    told = bank.describe()
    indexes = [
        f"{folder.name} ({index.rows:,} rows, recall@{index.recall.k} {index.recall.value:.4f}, {index.bytes:,} bytes)"
        for folder, index in records.beside(bank)
    ]
    told["indexes"] = indexes if json else "; ".join(indexes) or "none"
    tables.show_mapping(told, title=str(path), as_json=json)


@app.command()
def verify(path: BankPath) -> None:
    """Read every byte of a bank, and of its indexes, and check it against its hashes."""
    from carp_eval.commands import tables
    from carp_eval.errors import BankError
    from carp_eval.features.bank import Bank
    from carp_eval.features.indexes import record as records

    bank = Bank.open(path)
    problems = bank.verify()
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise BankError(
            f"{path} is damaged:\n{listed}\nRun the same `carp extract` again: it redoes what is damaged"
        )
    indexes = records.beside(bank)
    broken = [
        f"  {folder.name}: {problem}" for folder, index in indexes for problem in index.problems(folder)
    ]
    if broken:
        listed = "\n".join(broken)
        raise BankError(f"an index of {path} is damaged:\n{listed}\nMake it again with `carp bank index`")
    beside = f", and {len(indexes)} indexes of it" if indexes else ""
    tables.say(f"{path} is whole: {len(bank)} rows{beside}, every hash right")


@app.command()
def index(
    path: BankPath,
    kind: Annotated[
        KindChoice,
        typer.Option(
            "--kind",
            help="auto: flat (exact) up to 20,000 rows, hnsw up to 200,000, then ivf; ivf-pq where ivf's bytes "
            "would exceed --memory.",
        ),
    ] = KindChoice.auto,
    recall: Annotated[
        float,
        typer.Option("--recall", help="Share of the exact nearest neighbours that must be found."),
    ] = 0.99,
    k: Annotated[int, typer.Option("--k", min=1, help="Neighbours of a query, for that.")] = 20,
    queries: Annotated[
        Path | None,
        typer.Option(
            "--queries",
            metavar="BANK",
            help="Find the recall on this bank of the same model, such as the test images'. Default: on rows of the "
            "bank itself, which may have nearer relatives than new images have.",
        ),
    ] = None,
    nlist: Annotated[
        int | None,
        typer.Option(
            "--nlist", min=1, help="Inverted lists. Default: 4 x the root of the rows, at most 1,024."
        ),
    ] = None,
    part: options.Part = "0/1",
    memory: options.MemoryToIndex = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Make an index of a bank, and find how far it must look for a recall.

    It trains on a sample, adds the rows shard by shard, and tries settings on rows of the bank against their exact
    neighbours. The lists of ivf and ivf-pq stay on disk, so a bank may be larger than memory. What an index proposes is
    compared exactly with the bank's rows. A build that was stopped goes on with the same command.
    """
    from carp_eval.commands import progress, tables
    from carp_eval.features.bank import Bank
    from carp_eval.features.indexes import index as indexes
    from carp_eval.features.indexes import parts

    own = parts.part_of(Bank.open(path), *parts.read(part))
    with progress.bars() as bars:
        made = indexes.build(
            own.bank,
            kind=kind.value,
            recall=recall,
            k=k,
            nlist=nlist,
            memory=memory,
            seed=seed,
            queries=None if queries is None else Bank.open(queries),
            label=own.label,
            bar=bars,
            say=tables.warn,
        )
    tables.show_mapping({"index": str(made.path), **made.record.describe()}, title=str(path), as_json=json)

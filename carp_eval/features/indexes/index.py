"""Approximate nearest neighbours of a bank: an index proposes rows, which are compared exactly."""

import shutil
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import faiss
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from carp_eval import files
from carp_eval.errors import BankError, UsageError
from carp_eval.features.bank import Bank
from carp_eval.features.extraction.running import Progress
from carp_eval.features.indexes import building, choice, footprint, reranking, tuning
from carp_eval.features.indexes import record as records
from carp_eval.features.indexes.choice import Kind
from carp_eval.features.indexes.engine import Engine
from carp_eval.features.indexes.mapped import MappedRows
from carp_eval.features.indexes.record import Built, IndexRecord, Recall
from carp_eval.features.memory import default_budget
from carp_eval.features.rows import unit_rows
from carp_eval.features.search.neighbours import Neighbours

# What a query takes is told from so many, or from those of so many seconds.
TIMED_QUERIES = 30
TIMED_SECONDS = 10.0


class Index:
    """An index of a bank, open for searches.

    Attributes:
        bank: The bank.
        path: The index's folder.
        record: What is known of it.
    """

    def __init__(self, bank: Bank, path: Path, record: IndexRecord, engine: Engine | None) -> None:
        self.bank = bank
        self.path = path
        self.record = record
        self._engine = engine
        self._rows = MappedRows(bank)

    @classmethod
    def open(cls, bank: Bank, *, kind: Kind | None = None) -> "Index":
        """Open the newest index of a bank, once what FAISS parses of it was read and has the right hash.

        Its lists are mapped, and only their size is looked at, as with a bank's shards; `verify` reads them.

        Args:
            bank: The bank, or the part of one that was indexed.
            kind: Which sort; None is any.

        Raises:
            BankError: If there is none of these rows, or it is damaged.
        """
        there = records.found(bank)
        fitting = [each for each in there if kind in (None, each[1].design.kind)]
        if not fitting:
            others = any(bank.path.glob(f"index-*/{records.RECORD}"))
            reason = (
                f"its index is a {there[0][1].design.kind}, not a {kind}"
                if there
                else "the index beside it is of other rows"
                if others
                else "it has no index"
            )
            raise BankError(f"{bank.path}: {reason}; make one with `carp bank index {bank.path}`")
        path, record = fitting[0]
        return cls(bank, path, record, _engine(path, record.built, record.design.kind))

    def __len__(self) -> int:
        return self.record.rows

    def search(
        self,
        queries: Float[Tensor, "query width"],
        *,
        k: int,
        own: Int64[Tensor, " query"] | None = None,
        memory: int | None = None,
        progress: Progress | None = None,
    ) -> Neighbours:
        """Find k near rows for each query, by cosine similarity: mostly the nearest (see `record.recall`).

        A query for which the index proposes fewer than k rows is searched exactly.

        Args:
            queries: Features of the same model; their length does not matter.
            k: Neighbours of each query.
            own: For each query a row that is not to be its neighbour: its own, where queries are rows of the bank.
            memory: Bytes that an exact search may take; None is a quarter of what there is.
            progress: Is told of queries done, and of how many.

        Returns:
            The neighbours that were found, with their exact similarities: descending, then row ascending.

        Raises:
            UsageError: If there are fewer than k rows to choose from, or the queries are of another width.
            BankError: If a query is not finite, or a shard is not readable.
        """
        left = len(self) - (own is not None)
        if not 1 <= k <= left:
            raise UsageError(f"k is {k}, but there are {left} rows to choose from: choose k from 1 to {left}")
        if queries.shape[1] != self.bank.dim:
            raise UsageError(f"the bank's features are {self.bank.dim} wide, the queries' {queries.shape[1]}")
        asked = unit_rows([queries.detach().cpu()])
        if self._engine is None:
            return reranking.exhaustive(
                self.bank, self._rows, asked, k=k, own=own, memory=memory, keep=True, progress=progress
            )
        engine, probe = self._engine, self.record.probe
        number = min(len(self), round(k * self.record.candidates) + (own is not None))
        near, short = reranking.nearest(
            self._rows,
            asked,
            lambda part: engine.find(part, number, probe=probe),
            k=k,
            candidates=number,
            own=own,
            progress=progress,
        )
        if bool(short.any()):
            rest = reranking.exhaustive(
                self.bank,
                self._rows,
                asked[short],
                k=k,
                own=None if own is None else own[short],
                memory=memory,
            )
            near.similarities[short], near.indices[short] = rest
        return near

    def verify(self) -> list[str]:
        """Read every byte, and say what is wrong, a sentence for each damaged file."""
        return self.record.problems(self.path)


def build(
    bank: Bank,
    *,
    kind: Kind | Literal["auto"] = "auto",
    recall: float = 0.99,
    k: int = 20,
    nlist: int | None = None,
    memory: int | None = None,
    seed: int = 0,
    queries: Bank | None = None,
    label: str = "",
    bar: Callable[[str], Progress | None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Index:
    """Make an index of a bank, beside it, and find how far it must look.

    One of the same kind is replaced once the new one is whole. A build that was stopped goes on.

    Args:
        bank: The bank.
        kind: Which sort; `auto` is by size (`choice`).
        recall: Share of the exact neighbours that must be found.
        k: Neighbours of each query, for that.
        nlist: Inverted lists; None is by size, at most 1,024.
        memory: Bytes that training, a graph and the exact search may take; None is a quarter of the machine's.
        seed: Of the draws of rows to train on and to ask for.
        queries: Rows of the same model that are like what will be asked for: the recall is found on them. None is rows
            of the bank, each without itself; where those have nearer relatives than new images, it is less on new ones.
        label: Behind the index's name, where several of a kind belong to one folder.
        bar: Gives a bar for work of a name.
        say: Is told whether a build goes on, and of its files that are damaged.

    Raises:
        UsageError: If the recall is no share below 1, or there are too few rows or bytes for what was asked.
        BankError: If the recall cannot be reached, a row is not finite, or the queries are of another model.
        StorageError: If the disk is full, read-only or closed to us.
    """
    tuning.check(len(bank), k=k, recall=recall)
    if queries is not None:
        bank.check_comparable(queries)
        if queries.fingerprint == bank.fingerprint:
            # Its own rows: each would find itself.
            queries = None
    memory = default_budget() if memory is None else memory
    _check_memory(bank, kind, nlist=nlist, k=k, memory=memory)
    design = choice.design(kind, len(bank), bank.dim, nlist=nlist, memory=memory, seed=seed)
    place = bank.path / f"index-{design.kind}{label}"
    making = place.with_name(f".{place.name}.making")
    with files.locked(making):
        started = time.perf_counter()
        plan, goes_on = building.begin(making, bank, design, memory=memory)
        if goes_on:
            say(f"going on with the {design.kind} index that was begun in {making}")
        built = Built(list_sizes=(), files={})
        tuned = tuning.Tuned(
            0,
            1.0,
            Recall(
                target=recall,
                of="queries: every row is compared",
                k=k,
                queries=0,
                value=1.0,
                low=1.0,
                high=1.0,
            ),
        )
        if design.kind != "flat":
            built = building.build(making, bank, plan, bar=bar, say=say)
            tuned = _tuned(making, built, bank, queries, plan, k=k, recall=recall, memory=memory, bar=bar)
        record = IndexRecord(
            bank=bank.fingerprint.sha256,
            content=plan.content,
            rows=len(bank),
            dim=bank.dim,
            design=design,
            built=built,
            probe=tuned.probe,
            candidates=tuned.candidates,
            recall=tuned.recall,
            seconds=time.perf_counter() - started,
            query_ms=0.0,
            faiss=faiss.__version__,
            created=datetime.now(UTC).isoformat(),
        )
        timed = _query_ms(
            Index(bank, making, record, _engine(making, built, design.kind)), k=k, memory=memory
        )
        record = record.model_copy(update={"query_ms": timed})
        files.write_text(making / records.RECORD, record.model_dump_json(indent=2) + "\n")
        building.drop_parts(making)
        _take_place(making, place)
        building.drop_plan(place)
    return Index(bank, place, record, _engine(place, built, design.kind))


def _check_memory(
    bank: Bank, kind: Kind | Literal["auto"], *, nlist: int | None, k: int, memory: int
) -> None:
    """Make sure, before any work, that the memory is enough for all of it.

    Raises:
        UsageError: If it is not; the message says what is.
    """
    rows, dim = len(bank), bank.dim
    chosen = choice.kind_for(rows, dim, memory=memory) if kind == "auto" else kind
    queries = 1 if chosen == "flat" else min(tuning.QUERIES, rows)
    width = dim if chosen == "ivf" else min(dim, choice.WIDEST_CODE)
    least = footprint.least_to_ask(
        bank,
        k=min(k + 1, rows),
        queries=queries,
        named=tuning.deepest(rows, k) + 1,
        beside=rows * footprint.graph_row(width) if chosen == "hnsw" else 0,
        kind=chosen,
    )
    if chosen != "flat":
        least = max(
            least,
            choice.least_to_train(chosen, rows, dim, nlist=nlist),
            footprint.least_to_fill(chosen, rows, dim, width),
        )
    if memory < least:
        raise UsageError(choice.too_little(chosen, rows, dim, memory=memory, least=least))


def _tuned(
    folder: Path,
    built: Built,
    bank: Bank,
    queries: Bank | None,
    plan: building.Plan,
    *,
    k: int,
    recall: float,
    memory: int,
    bar: Callable[[str], Progress | None],
) -> tuning.Tuned:
    engine = _engine(folder, built, plan.design.kind)
    assert engine is not None
    if queries is None:
        own = tuning.draw(len(bank), plan.design)[1]
        asked, of = MappedRows(bank).take(own), "rows of the bank, each without itself"
    else:
        own, rows = None, MappedRows(queries)
        asked = rows.take(tuning.spread(len(rows)))
        of = f"rows of {queries.record.dataset} ({queries.record.split})"
    return tuning.tune(
        engine,
        bank,
        asked,
        own,
        k=k,
        recall=recall,
        of=of,
        seed=plan.design.seed,
        memory=memory - footprint.ready(plan.design, len(bank), bank.dim),
        progress=bar("settings tried"),
    )


def _engine(folder: Path, built: Built, kind: Kind) -> Engine | None:
    if kind == "flat":
        return None
    for name, file in built.files.items():
        trouble = file.problem(folder / name, whole=name == records.ENGINE)
        if trouble is not None:
            raise BankError(f"{folder}: {trouble}; run `carp bank index` again")
    return Engine.read(folder, built)


def _query_ms(index: Index, *, k: int, memory: int) -> float:
    """Return the median time of a query that comes alone, in milliseconds."""
    asked = MappedRows(index.bank).take(torch.arange(min(TIMED_QUERIES, len(index))))
    taken: list[float] = []
    for query in asked.split(1):
        started = time.perf_counter()
        index.search(query, k=k, memory=memory)
        taken.append(1000 * (time.perf_counter() - started))
        if sum(taken) > 1000 * TIMED_SECONDS:
            break
    return statistics.median(taken)


def _take_place(making: Path, place: Path) -> None:
    """Give a finished index its name; what had it goes."""
    old = place.with_name(f".{place.name}.old")
    with files.storage_errors(place):
        shutil.rmtree(old, ignore_errors=True)
        if place.exists():
            place.rename(old)
        making.rename(place)
        shutil.rmtree(old, ignore_errors=True)

"""Exact search of a bank larger than memory: its rows pass once, slab by slab, before all queries.

The neighbours are those of `search`, whatever the memory and whatever products choose candidates: float64 settles
their order. A slab is converted while the one before it is multiplied, so that the time is that of the product.
"""

import hashlib
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float32
from torch import Tensor

from carp_eval.features import memory as memory_of
from carp_eval.features.bank import Bank
from carp_eval.features.rows import lengths, plain_rows, unit_rows
from carp_eval.features.search.bf16 import Bf16Finder, proven
from carp_eval.features.search.exact import Exhaustive, float32_error
from carp_eval.features.search.in_memory import CHUNK, MARGIN, check_fits, faiss_blocks, search
from carp_eval.features.search.neighbours import Neighbours, joined, settle, without_self
from carp_eval.features.search.search_plan import (
    QUERIES_AT_ONCE,
    Plan,
    Products,
    SearchPrecision,
    by_bf16,
    fits,
    plan_for,
)
from carp_eval.features.search.slabs import Best, FaissFinder, Finder, TorchFinder
from carp_eval.features.stored import StoredRows, ahead

SECONDS_BETWEEN_SAVES = 60.0
# Queries on which bf16 is tried, and for how many it must serve: the others are searched twice.
TRIED = 64
PROVEN_SHARE = 0.75


@runtime_checkable
class Keeper(Protocol):
    """Keeps the state of a search, so that a kill costs minutes, not all."""

    def load(self) -> Mapping[str, Any] | None:
        """Return what was kept last; None where nothing was."""
        ...

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep tensors and plain values in place of what was kept."""
        ...


def search_bank(
    bank: Bank,
    queries: Float32[Tensor, "query width"],
    *,
    k: int,
    normalise: bool = True,
    memory: int | None = None,
    precision: SearchPrecision = "exact",
    exclude_self: bool = False,
    device: torch.device | None = None,
    kept: Keeper | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Neighbours:
    """Find the k rows of a bank on disk with the largest inner product with each query.

    The bank is read into memory where it fits, in float32, and streamed from its files elsewhere.

    Args:
        bank: The rows to choose from.
        queries: What to find the neighbours of; of length one, where the bank's rows are to be.
        k: Neighbours of each query.
        normalise: Whether the bank's rows are scaled to length one.
        memory: Bytes that the search may take, queries included; None is a quarter of what there is. It moves no
            neighbour. Pages of files that the system may drop at any time do not count.
        precision: `exact` misses no neighbour, whatever products choose; `bf16` lets eight-bit products choose, and
            takes their word for what they do not fetch.
        exclude_self: Whether query i is row i of the bank, and no neighbour of itself.
        device: Where products are made; None is a GPU if there is one.
        kept: Keeps the state of a streamed search, from which the same search goes on.
        progress: Is told how far it is, in queries, and of how many.

    Returns:
        The neighbours: similarity descending, then row ascending.

    Raises:
        UsageError: If there are fewer than k rows to choose from, widths differ, or the memory is too little.
        BankError: If a value is not finite; the message numbers the rows.
    """
    check_fits(len(bank), bank.dim, queries, k=k, exclude_self=exclude_self)
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    budget = memory_of.default_budget() if memory is None else memory
    neighbours = k + exclude_self
    # Once: each time it is made, every row is looked at.
    stored = cache(partial(bank.stored_rows, normalise=normalise))
    products: Products = "bf16"
    if precision == "exact" and not (
        by_bf16(bank, queries, k=neighbours, budget=budget, device=device)
        and _pays(bank, stored(), queries, k=neighbours, budget=budget, device=device)
    ):
        if device.type == "cpu" and fits(bank, queries, budget):
            rows = (unit_rows if normalise else plain_rows)(bank.shards())
            return search(rows, queries, k=k, exclude_self=exclude_self, progress=progress)
        products = "float32"
    plan = plan_for(bank, queries, k=neighbours, budget=budget, products=products)
    return stream(
        stored(),
        queries,
        plan,
        k=k,
        precision=precision,
        exclude_self=exclude_self,
        device=device,
        kept=kept,
        name="" if kept is None else _name(bank, queries, plan, normalise=normalise),
        progress=progress,
    )


def stream(
    bank: StoredRows,
    queries: Float32[Tensor, "query dim"],
    plan: Plan,
    *,
    k: int,
    precision: SearchPrecision = "exact",
    exclude_self: bool = False,
    device: torch.device | None = None,
    kept: Keeper | None = None,
    name: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Neighbours:
    """Search a bank slab by slab (see `search_bank`).

    Args:
        bank: The rows to choose from.
        queries: The queries.
        plan: How the search is cut; it moves no neighbour, but for bf16's misses.
        k: Neighbours of each query.
        precision: Whether what bf16 has chosen must be proven to be all.
        exclude_self: Whether query i is row i of the bank.
        device: Where products are made; None is the processor.
        kept: Keeps the state.
        name: Tells this search from others in what was kept.
        progress: Is told how far it is.
    """
    device = device or torch.device("cpu")
    queries = queries.contiguous()
    finder: Finder
    if plan.products == "bf16":
        finder = Bf16Finder(bank, queries, device=device)
    elif device.type == "cpu":
        finder = FaissFinder(queries)
    else:
        finder = TorchFinder(queries, device=device, dtype=torch.float32)
    best = _pass(bank, len(queries), finder, plan, kept=kept, name=name, progress=progress)
    if isinstance(finder, Bf16Finder):
        near = _by_bf16(bank, queries, finder, best, plan, k=k + exclude_self, again=precision == "exact")
    else:
        near = _by_float32(bank, queries, best, k=k + exclude_self)
    return without_self(near, torch.arange(len(queries))) if exclude_self else near


def _pays(
    bank: Bank,
    rows: StoredRows,
    queries: Float32[Tensor, "query dim"],
    *,
    k: int,
    budget: int,
    device: torch.device,
) -> bool:
    """Try on some queries whether bf16's choice can be proven: hardly any is where all features are nearly the same."""
    tried = queries[:: max(1, len(queries) // TRIED)]
    plan = plan_for(bank, tried, k=k, budget=budget, products="bf16")
    finder = Bf16Finder(rows, tried, device=device)
    best = _pass(rows, len(tried), finder, plan, kept=None, name="", progress=None)
    _, sure = proven(rows, finder, tried, best, k=k)
    return float(sure.double().mean()) >= PROVEN_SHARE


def _by_float32(bank: StoredRows, queries: Float32[Tensor, "query dim"], best: Best, *, k: int) -> Neighbours:
    tolerance = lengths(queries, "the queries").double() * bank.longest * float32_error(bank.dim)
    exhaustive = Exhaustive(bank)
    parts: list[Neighbours] = []
    for start in range(0, len(queries), CHUNK):
        part = slice(start, start + CHUNK)
        fetched = best.part(part)
        rough, rows = fetched.similarities.cpu().numpy(), fetched.rows.cpu().numpy()
        parts.append(settle(bank, exhaustive, queries[part], rough, rows, tolerance[part].numpy(), k=k))
    return joined(parts, k=k)


def _by_bf16(
    bank: StoredRows,
    queries: Float32[Tensor, "query dim"],
    finder: Bf16Finder,
    best: Best,
    plan: Plan,
    *,
    k: int,
    again: bool,
) -> Neighbours:
    """Order what bf16 has chosen, and search again, by float32, for whom that is not proven to be all."""
    parts, sure = [], []
    for start in range(0, len(queries), plan.settled):
        part = slice(start, start + plan.settled)
        near, proof = proven(bank, finder, queries[part], best.part(part), k=k)
        parts.append(near)
        sure.append(proof)
    near = joined(parts, k=k)
    unsure = (~torch.cat([*sure, torch.ones(0, dtype=torch.bool)])).nonzero().flatten()
    if again and len(unsure):
        of_float32 = Plan(min(k + MARGIN, len(bank)), plan.slab_rows)
        found = stream(bank, queries[unsure], of_float32, k=k, device=finder.device)
        near.similarities[unsure], near.indices[unsure] = found
    return near


def _pass(
    bank: StoredRows,
    count: int,
    finder: Finder,
    plan: Plan,
    *,
    kept: Keeper | None,
    name: str,
    progress: Callable[[int, int], None] | None,
) -> Best:
    """Let the bank pass before all queries, from where an earlier run of the same search was stopped."""
    best, done = _begun(kept, name, count, plan.fetched, finder)
    if progress is not None and done:
        progress(done * count // len(bank), count)
    saved = time.monotonic()
    # Two slabs in turn: while one is multiplied, the next is read.
    pinned = finder.device.type == "cuda"
    slabs = [torch.empty(plan.slab_rows, bank.dim, pin_memory=pinned) for _ in range(2)]

    def read(start: int, stop: int) -> Tensor:
        return bank.slab(start, stop, into=slabs[start // plan.slab_rows % 2])

    with faiss_blocks(), _full_precision():
        for start, rows in ahead(read, len(bank), at_once=plan.slab_rows, first=done):
            after = start + plan.slab_rows
            finder.load(rows, first=start)
            for first in range(0, count, QUERIES_AT_ONCE):
                part = slice(first, min(first + QUERIES_AT_ONCE, count))
                finder.look(part, best.part(part))
                if progress is not None:
                    share = (start * count + len(rows) * part.stop) / (len(bank) * count)
                    progress(int(share * count), count)
            if kept is not None and after < len(bank) and time.monotonic() - saved >= SECONDS_BETWEEN_SAVES:
                kept.save(
                    {
                        "name": name,
                        "rows_done": after,
                        "similarities": best.similarities,
                        "rows": best.rows,
                        "learnt": finder.learnt,
                    }
                )
                saved = time.monotonic()
    return best


def _begun(kept: Keeper | None, name: str, count: int, fetched: int, finder: Finder) -> tuple[Best, int]:
    """Return the best so far and the rows that were looked at: none, or those of a search of this name."""
    state = None if kept is None else kept.load()
    if state is None or state.get("name") != name:
        return Best.none_yet(count, fetched, device=finder.device), 0
    finder.learnt = {name: value.to(finder.device) for name, value in state["learnt"].items()}
    return Best(state["similarities"].to(finder.device), state["rows"].to(finder.device)), state["rows_done"]


def _name(bank: Bank, queries: Float32[Tensor, "query dim"], plan: Plan, *, normalise: bool) -> str:
    """Return what tells a search from any other: equal names have equal states."""
    digest = hashlib.sha256(f"{bank.fingerprint.sha256} {plan.fetched} {normalise} {plan.products}".encode())
    # Of a bank, only some rows may be seen.
    digest.update(bank.index.numpy().data)
    digest.update(queries.contiguous().numpy().data)
    return digest.hexdigest()


@contextmanager
def _full_precision() -> Generator[None]:
    """Have a GPU multiply float32 in full, not in TF32's ten bits, and sum up bf16 in float32.

    Both settings are torch's, for the whole process.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision, matmul.allow_bf16_reduced_precision_reduction
    matmul.fp32_precision, matmul.allow_bf16_reduced_precision_reduction = "ieee", False
    try:
        yield
    finally:
        matmul.fp32_precision, matmul.allow_bf16_reduced_precision_reduction = before

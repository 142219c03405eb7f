"""How far an index must look: the least that finds the share of neighbours asked for, on a sample of queries."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from carp_eval.errors import BankError, UsageError
from carp_eval.features.bank import Bank
from carp_eval.features.extraction.running import Progress
from carp_eval.features.indexes.choice import Design
from carp_eval.features.indexes.engine import Engine
from carp_eval.features.indexes.record import Recall
from carp_eval.features.search.neighbours import without_self
from carp_eval.features.search.streamed import search_bank
from carp_eval.metrics.bootstrap import mean_interval

QUERIES = 1000
# Candidates for each neighbour that are tried, and the most for one query.
DEPTHS = (1, 2, 4, 8, 16, 32, 64)
MOST_CANDIDATES = 8192
# A bar of more is exactness, which no index promises and no sample shows.
HIGHEST_RECALL = 0.9999


class Tuned(NamedTuple):
    """How an index is asked.

    Attributes:
        probe: Lists to look into, or nodes to keep.
        candidates: Rows to compare exactly, for each neighbour asked for.
        recall: What that finds.
    """

    probe: int
    candidates: float
    recall: Recall


def check(rows: int, *, k: int, recall: float) -> None:
    """Make sure that a recall can be asked for.

    Raises:
        UsageError: If it is no share below 1, or there are too few rows.
    """
    if not 0 < recall <= HIGHEST_RECALL:
        raise UsageError(
            f"the recall must lie above 0 and be at most {HIGHEST_RECALL}, got {recall:g}; for all neighbours search "
            "exactly (--kind flat)"
        )
    if not 1 <= k < rows:
        raise UsageError(
            f"k is {k}, but a row of the bank has {rows - 1} others: choose k from 1 to {rows - 1}"
        )


def deepest(rows: int, k: int) -> int:
    """Return how many candidates of a query are tried at most."""
    return min(max(MOST_CANDIDATES, k), DEPTHS[-1] * k, rows - 1)


def draw(rows: int, design: Design) -> tuple[Int64[Tensor, " training"], Int64[Tensor, " query"]]:
    """Draw the rows to train on and those to ask for, ascending; no row is both, as far as there are enough."""
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(design.seed))
    queries = min(QUERIES, rows)
    return order[: design.training_rows].sort().values, order[rows - queries :].sort().values


def spread(rows: int) -> Int64[Tensor, " query"]:
    """Choose rows of another bank to ask for, evenly spaced."""
    return torch.linspace(0, rows - 1, min(QUERIES, rows)).round().long()


def tune(
    engine: Engine,
    bank: Bank,
    queries: Float32[Tensor, "query dim"],
    own: Int64[Tensor, " query"] | None,
    *,
    k: int,
    recall: float,
    of: str,
    seed: int,
    memory: int,
    progress: Progress | None,
) -> Tuned:
    """Find the smallest search that finds enough: the fewest lists or nodes, then the fewest exact comparisons.

    As candidates are compared exactly, a neighbour is found where it is among them.

    Args:
        engine: The index.
        bank: Its rows.
        queries: Unit rows to ask for.
        own: Their rows, where they are of the bank: none is its own neighbour.
        k: Neighbours of each query.
        recall: Share of the exact neighbours to find.
        of: What the queries are, in words.
        seed: Of the interval.
        memory: Bytes that the exact search may take.
        progress: Is told of settings tried, and of how many there are.

    Raises:
        BankError: If no setting finds so many; the message tells the best.
    """
    exact = search_bank(bank, queries, k=k + (own is not None), memory=memory)
    wanted = (exact if own is None else without_self(exact, own)).indices.numpy()
    # No row has this number: nothing is left out.
    skipped = np.full(len(queries), -2) if own is None else own.numpy()
    most = deepest(len(bank), k)
    depths = sorted({min(depth * k, most) for depth in DEPTHS})
    best = 0.0
    trials = _trials(engine, depths, k)
    for number, (probe, allowed) in enumerate(trials, start=1):
        found = engine.find(queries.numpy(), allowed[-1] + 1, probe=probe)
        hits = _hits(found, skipped, wanted)
        if progress is not None:
            progress(number, len(trials))
        for depth in allowed:
            shares: Float64[np.ndarray, " query"] = hits[:, :depth].sum(axis=1) / k
            value = float(shares.mean())
            best = max(best, value)
            if value >= recall:
                low, high = mean_interval(shares, seed=seed)
                told = Recall(
                    target=recall, of=of, k=k, queries=len(queries), value=value, low=low, high=high
                )
                return Tuned(probe, depth / k, told)
    raise BankError(
        f"a recall of {recall:g} was asked for, and this index reaches {best:.4f} at most (k = {k}, {len(queries)} "
        f"queries, {depths[-1]} candidates each): ask for less with --recall, which goes on with what was built, or "
        "choose another --kind: ivf keeps the most of each row"
    )


def _trials(engine: Engine, depths: list[int], k: int) -> list[tuple[int, list[int]]]:
    """List what is tried: how far to look, and which numbers of candidates to compare, the cheapest first."""
    if engine.inverted is None:
        # Nodes that a graph search kept were compared by it: all of them are candidates.
        return [(max(depth, k), [depth]) for depth in depths]
    lists = int(engine.inverted.nlist)
    probes = [2**power for power in range(lists.bit_length()) if 2**power < lists]
    return [(probe, depths) for probe in (*probes, lists)]


def _hits(
    found: Int64[np.ndarray, "query candidate"],
    own: Int64[np.ndarray, " query"],
    wanted: Int64[np.ndarray, "query neighbour"],
) -> Bool[np.ndarray, "query others"]:
    """Tell which candidates are neighbours; each query's own row is skipped, and takes no place."""
    hits = np.zeros((len(found), found.shape[1] - 1), dtype=bool)
    for query, candidates in enumerate(found):
        others = candidates[candidates != own[query]][: hits.shape[1]]
        hits[query, : len(others)] = np.isin(others, wanted[query])
    return hits

"""Which index suits a bank: its kind by size, its lists and codes, and what it trains on.

All kinds only propose candidates, which are then compared exactly with the bank's own rows, so a code need not hold
more of a row than tells near from far:

- `flat`: no index: the exact search. Up to 20,000 rows one query is answered in some ten milliseconds anyway.
- `hnsw`: a graph of neighbours over 8-bit codes of at most 512 principal components, held in memory. The quickest for
  one query, but each row that is added searches the graph: up to 200,000 rows.
- `ivf`: the rows dealt to lists by k-means, 8 bits a value, on disk. Beyond that, while its codes fit the memory.
- `ivf-pq`: lists of product-quantised principal components, a byte for four of them, on disk. For all that is larger.

Distances are Euclidean: on unit rows they have the order of the cosine, and unlike it they may be centred for PCA.
"""

import math
from typing import Literal, get_args

from carp_eval.cards.frozen import Frozen
from carp_eval.errors import UsageError

Kind = Literal["flat", "hnsw", "ivf", "ivf-pq"]
KINDS: tuple[Kind, ...] = get_args(Kind)

MOST_FLAT_ROWS = 20_000
MOST_GRAPH_ROWS = 200_000
# To deal rows to lists costs rows x lists products, and so does a step of their k-means on its sample: at 1,280,000 x
# 2,048 with 1,024 lists 5.4 TFLOP, a minute of two cores; four times the lists take four times that, and so
# does their sample.
MOST_LISTS_ON_CPU = 1024
ROWS_PER_LIST = 64
# What FAISS asks for, below which its k-means warns.
LEAST_ROWS_PER_CENTRE = 39
GRAPH_LINKS = 32
WIDEST_CODE = 512
VALUES_PER_CODE = 4


class Design(Frozen):
    """How an index is made.

    Attributes:
        kind: Which sort.
        factory: What FAISS's `index_factory` is told; empty for `flat`.
        lists: Inverted lists; 0 where there are none.
        training_rows: Rows that k-means, PCA and quantisers are fitted on.
        code_bytes: Bytes of the index for each row.
        seed: Of the draw of training rows.
    """

    kind: Kind
    factory: str
    lists: int
    training_rows: int
    code_bytes: int
    seed: int


def kind_for(rows: int, dim: int, *, memory: int) -> Kind:
    """Choose the kind by the number of rows, and by whether codes of a byte a value fit the memory."""
    if rows <= MOST_FLAT_ROWS:
        return "flat"
    if rows <= MOST_GRAPH_ROWS and rows * _graph_bytes(dim) <= memory:
        return "hnsw"
    return "ivf" if rows * (dim + 8) <= memory else "ivf-pq"


def design(
    kind: Kind | Literal["auto"], rows: int, dim: int, *, nlist: int | None, memory: int, seed: int
) -> Design:
    """Decide on an index of so many rows.

    Args:
        kind: Which sort; `auto` is by size.
        rows: Rows of the bank.
        dim: Their width.
        nlist: Inverted lists; None is four times the square root of the rows, at most 1,024.
        memory: Bytes that training may take, and a graph.
        seed: Of the draw of training rows.

    Raises:
        UsageError: If there are too few rows for the lists or the codes, or the memory is too small.
    """
    chosen = kind_for(rows, dim, memory=memory) if kind == "auto" else kind
    if nlist is not None and not chosen.startswith("ivf"):
        raise UsageError(f"--nlist is for the kinds ivf and ivf-pq; the kind here is {chosen}")
    if chosen == "flat":
        return Design(kind=chosen, factory="", lists=0, training_rows=0, code_bytes=0, seed=seed)
    # Half of the memory: k-means and PCA make copies.
    affordable = min(rows, memory // (2 * 4 * dim))
    if affordable < 1:
        raise UsageError(
            f"{memory:,} bytes are too few to train on a single row of {dim} numbers: allow more with --memory"
        )
    # PCA finds no more components than it has rows.
    reduced = dim if dim <= WIDEST_CODE else min(WIDEST_CODE, affordable)
    pca = f"PCAR{reduced}," if reduced < dim else ""
    if chosen == "hnsw":
        if rows * _graph_bytes(dim) > memory:
            raise UsageError(
                f"an hnsw index of {rows:,} rows takes {rows * _graph_bytes(dim):,} bytes of memory, more than the "
                f"{memory:,} it may take: choose --kind ivf, whose lists stay on disk, or allow more with --memory"
            )
        return Design(
            kind=chosen,
            factory=f"{pca}HNSW{GRAPH_LINKS}_SQ8",
            lists=0,
            training_rows=min(affordable, 65_536),
            code_bytes=_graph_bytes(dim),
            seed=seed,
        )
    lists = _lists(rows, affordable, nlist)
    if chosen == "ivf":
        return Design(
            kind=chosen,
            factory=f"IVF{lists},SQ8",
            lists=lists,
            training_rows=min(affordable, max(ROWS_PER_LIST * lists, 16_384)),
            code_bytes=dim + 8,
            seed=seed,
        )
    # 256 centres a code, or 16 where there are too few rows to place 256 well.
    bits = 8 if affordable >= 256 * LEAST_ROWS_PER_CENTRE else 4
    if affordable < 16 * LEAST_ROWS_PER_CENTRE:
        raise UsageError(
            f"product quantisation needs {16 * LEAST_ROWS_PER_CENTRE} rows to train on, there are {affordable}: "
            "choose --kind ivf or flat, or allow more with --memory"
        )
    codes = next(
        number for number in range(max(1, reduced // VALUES_PER_CODE), 0, -1) if reduced % number == 0
    )
    return Design(
        kind=chosen,
        factory=f"{pca}IVF{lists},PQ{codes}x{bits}np",
        lists=lists,
        training_rows=min(affordable, max(ROWS_PER_LIST * lists, 65_536)),
        code_bytes=math.ceil(codes * bits / 8) + 8,
        seed=seed,
    )


def _lists(rows: int, affordable: int, nlist: int | None) -> int:
    most = affordable // LEAST_ROWS_PER_CENTRE
    if nlist is None:
        return max(1, min(MOST_LISTS_ON_CPU, 4 * math.isqrt(rows), most))
    if not 1 <= nlist <= max(1, most):
        raise UsageError(
            f"{nlist} lists need {nlist * LEAST_ROWS_PER_CENTRE:,} rows to train on ({LEAST_ROWS_PER_CENTRE} each), "
            f"there are {affordable:,} of {rows:,} that fit the memory: choose --nlist from 1 to {max(1, most)}, or "
            "allow more with --memory"
        )
    return nlist


def _graph_bytes(dim: int) -> int:
    # Codes, twice the links at the bottom, of four bytes, and a share of those above.
    return min(dim, WIDEST_CODE) + 2 * GRAPH_LINKS * 4 + 16

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
from carp_eval.features.indexes import footprint
from carp_eval.features.indexes.footprint import GRAPH_LINKS

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
WIDEST_CODE = 512
VALUES_PER_CODE = 4
# Trained on, however little memory there is, where the bank has so many.
LEAST_TRAINING_ROWS = 1024


class Design(Frozen):
    """How an index is made.

    Attributes:
        kind: Which sort.
        factory: What FAISS's `index_factory` is told; empty for `flat`.
        lists: Inverted lists; 0 where there are none.
        training_rows: Rows that k-means, PCA and quantisers are fitted on.
        code_bytes: Bytes of the index for each row.
        width: Principal components that are coded; the rows' own width where all are.
        codes: Product quantisers; 0 where there are none.
        code_bits: Bits of the code of each.
        seed: Of the draw of training rows.
    """

    kind: Kind
    factory: str
    lists: int
    training_rows: int
    code_bytes: int
    width: int = 0
    codes: int = 0
    code_bits: int = 0
    seed: int


def kind_for(rows: int, dim: int, *, memory: int) -> Kind:
    """Choose the kind by the number of rows, and by whether codes of a byte a value fit the memory."""
    if rows <= MOST_FLAT_ROWS:
        return "flat"
    graph = footprint.least_to_fill("hnsw", rows, dim, min(dim, WIDEST_CODE))
    if rows <= MOST_GRAPH_ROWS and graph <= memory:
        return "hnsw"
    return "ivf" if rows * (dim + 8) <= memory else "ivf-pq"


def least_to_train(kind: Literal["hnsw", "ivf", "ivf-pq"], rows: int, dim: int, *, nlist: int | None) -> int:
    """Return the bytes of memory that training takes at least."""
    width = min(dim, WIDEST_CODE) if kind != "ivf" else dim
    lists = (nlist or 1) if kind != "hnsw" else 0
    wanted = min(rows, max(LEAST_TRAINING_ROWS, LEAST_ROWS_PER_CENTRE * lists))
    row = footprint.training_row(dim, width, quantised=kind == "ivf-pq")
    per_list = _per_list(kind, width)
    # The table is a quarter of the memory at most.
    of_lists = max(lists * per_list, footprint.SHARE * lists * (per_list - 12 * width))
    return footprint.training_beside(dim, width) + wanted * row + of_lists


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
    if nlist is not None and nlist * LEAST_ROWS_PER_CENTRE > max(rows, LEAST_ROWS_PER_CENTRE):
        raise UsageError(
            f"{nlist} lists need {nlist * LEAST_ROWS_PER_CENTRE:,} rows to train on ({LEAST_ROWS_PER_CENTRE} each), "
            f"there are {rows:,}: choose --nlist from 1 to {max(1, rows // LEAST_ROWS_PER_CENTRE)}"
        )
    if chosen == "ivf-pq" and rows < 16 * LEAST_ROWS_PER_CENTRE:
        raise UsageError(
            f"product quantisation needs {16 * LEAST_ROWS_PER_CENTRE} rows to train on, there are {rows}: choose "
            "--kind ivf or flat"
        )
    least = least_to_train(chosen, rows, dim, nlist=nlist)
    if memory < least:
        raise UsageError(too_little(chosen, rows, dim, memory=memory, least=least))
    # PCA finds no more components than it has rows.
    width = min(dim, WIDEST_CODE, rows) if chosen != "ivf" and dim > WIDEST_CODE else dim
    pca = f"PCAR{width}," if width < dim else ""
    row = footprint.training_row(dim, width, quantised=chosen == "ivf-pq")
    left = memory - footprint.training_beside(dim, width)
    if chosen == "hnsw":
        return Design(
            kind=chosen,
            factory=f"{pca}HNSW{GRAPH_LINKS}_SQ8",
            lists=0,
            training_rows=min(rows, 65_536, left // row),
            code_bytes=footprint.graph_row(width),
            width=width,
            seed=seed,
        )
    lists = nlist or _lists(chosen, rows, width, row, left=left, memory=memory)
    affordable = min(rows, (left - lists * _per_list(chosen, width)) // row)
    if chosen == "ivf":
        return Design(
            kind=chosen,
            factory=f"IVF{lists},SQ8",
            lists=lists,
            training_rows=min(affordable, max(ROWS_PER_LIST * lists, 16_384)),
            code_bytes=dim + 8,
            width=width,
            seed=seed,
        )
    # 256 centres a code, or 16 where there are too few rows to place 256 well.
    bits = 8 if affordable >= 256 * LEAST_ROWS_PER_CENTRE else 4
    codes = _codes(width)
    return Design(
        kind=chosen,
        factory=f"{pca}IVF{lists},PQ{codes}x{bits}np",
        lists=lists,
        training_rows=min(affordable, max(ROWS_PER_LIST * lists, 65_536)),
        code_bytes=math.ceil(codes * bits / 8) + 8,
        width=width,
        codes=codes,
        code_bits=bits,
        seed=seed,
    )


def too_little(kind: Kind, rows: int, dim: int, *, memory: int, least: int) -> str:
    """Say that the memory is too small, and what is enough."""
    enough = math.ceil(least / 1e6)
    graph = ", or choose --kind ivf, whose lists stay on disk" if kind == "hnsw" else ""
    return (
        f"making an index of the kind {kind} of {rows:,} rows of {dim:,} dimensions takes {enough:,} MB of memory at "
        f"least, and may take {memory / 1e6:,.1f} MB: say --memory {enough}MB or more{graph}"
    )


def _lists(kind: Kind, rows: int, width: int, row: int, *, left: int, memory: int) -> int:
    per_list = _per_list(kind, width)
    most = min(rows // LEAST_ROWS_PER_CENTRE, left // (LEAST_ROWS_PER_CENTRE * row + per_list))
    if kind == "ivf-pq":
        most = min(most, memory // (footprint.SHARE * per_list))
    return max(1, min(MOST_LISTS_ON_CPU, 4 * math.isqrt(rows), most))


def _per_list(kind: Kind, width: int) -> int:
    """Return the bytes of a list while it is trained: its centre, with FAISS's copies, and its table."""
    return 12 * width + (footprint.table_of_list(_codes(width), 8) if kind == "ivf-pq" else 0)


def _codes(width: int) -> int:
    return next(number for number in range(max(1, width // VALUES_PER_CODE), 0, -1) if width % number == 0)

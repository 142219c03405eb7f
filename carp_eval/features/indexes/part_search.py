"""How a part of a bank answers: by its index where it has one, else exactly."""

from jaxtyping import Float32
from torch import Tensor

from carp_eval.features.extraction.running import Progress
from carp_eval.features.indexes import record as records
from carp_eval.features.indexes import reranking
from carp_eval.features.indexes.index import Index
from carp_eval.features.indexes.mapped import MappedRows
from carp_eval.features.indexes.parts import Part
from carp_eval.features.indexes.serving import About, Find
from carp_eval.features.rows import unit_rows
from carp_eval.features.search.neighbours import Neighbours


def searcher(part: Part, *, exact: bool) -> tuple[About, Find]:
    """Return what a part is, and what searches it.

    Args:
        part: The part.
        exact: Whether its index is left alone.

    Raises:
        BankError: If a shard is missing, or the index is damaged.
    """
    rows = MappedRows(part.bank)
    index = Index.open(part.bank) if not exact and records.found(part.bank) else None

    def find(queries: Float32[Tensor, "query dim"], k: int, progress: Progress | None) -> Neighbours:
        if index is not None:
            return index.search(queries, k=k, progress=progress)
        asked = unit_rows([queries])
        return reranking.exhaustive(part.bank, rows, asked, k=k, keep=True, progress=progress)

    about = About(
        fingerprint=part.bank.fingerprint,
        number=part.number,
        count=part.count,
        first=part.first,
        rows=len(part.bank),
        dim=part.bank.dim,
        kind="exact" if index is None else index.record.design.kind,
    )
    return about, find

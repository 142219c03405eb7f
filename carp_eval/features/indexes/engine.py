"""FAISS's part: proposes rows that may be near. Nothing it says of similarities is used."""

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from jaxtyping import Float32, Int64

from carp_eval.errors import BankError
from carp_eval.features.indexes.record import ENGINE, LISTS, Built


class Engine:
    """An index in FAISS, ready to be asked. Not for two threads at once: how far it looks is set on the index.

    Attributes:
        index: FAISS's index.
        inverted: That which has the inverted lists, within it; None for a graph.
    """

    def __init__(self, index: Any) -> None:
        self.index = index
        self.inverted = faiss.try_extract_index_ivf(index)
        self._graph = None if self.inverted is not None else _innermost(index)

    @classmethod
    def read(cls, folder: Path, built: Built) -> "Engine":
        """Open an index whose files were checked: its lists are mapped, not read.

        Raises:
            BankError: If FAISS cannot read it.
        """
        try:
            engine = cls(faiss.read_index(str(folder / ENGINE)))
            if built.list_sizes:
                engine._map_lists(folder / LISTS, built.list_sizes)
        except RuntimeError as error:
            raise BankError(
                f"FAISS {faiss.__version__} cannot read {folder}: run `carp bank index` again"
            ) from error
        return engine

    def find(
        self, queries: Float32[np.ndarray, "query dim"], number: int, *, probe: int
    ) -> Int64[np.ndarray, "query number"]:
        """Propose rows for each query, the nearest first as far as the codes tell; -1 where there are no more.

        Args:
            queries: Unit rows.
            number: Rows to propose.
            probe: Lists to look into, or nodes to keep.
        """
        if self.inverted is not None:
            self.inverted.nprobe = min(probe, self.inverted.nlist)
            # Threads take queries, or where there are too few, lists.
            self.inverted.parallel_mode = 0 if len(queries) >= faiss.omp_get_max_threads() else 1
        elif self._graph is not None:
            self._graph.hnsw.efSearch = max(probe, number)
        return self.index.search(queries, number)[1]

    def _map_lists(self, path: Path, sizes: tuple[int, ...]) -> None:
        inverted: Any = self.inverted
        if inverted is None or len(sizes) != inverted.nlist:
            raise BankError(f"{path.parent} has lists that do not fit: run `carp bank index` again")
        # FAISS's own reader of such lists prints the file's name on standard output, where --json has the word.
        lists: Any = faiss.OnDiskInvertedLists()
        lists.nlist, lists.code_size = inverted.nlist, inverted.code_size
        lists.filename, lists.read_only = str(path), True
        lists.lists.resize(inverted.nlist)
        counts = np.array(sizes, dtype=np.uint64)
        lists.set_all_lists_sizes(faiss.swig_ptr(counts))
        lists.totsize = int(counts.sum()) * (inverted.code_size + 8)
        if path.stat().st_size != lists.totsize:
            raise BankError(f"{path} has another size than its lists: run `carp bank index` again")
        lists.do_mmap()
        inverted.replace_invlists(lists, True)
        lists.this.disown()
        self.index.ntotal = inverted.ntotal = int(counts.sum())


def _innermost(index: Any) -> Any:
    index = faiss.downcast_index(index)
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index

"""Neighbours as a table."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from carp_eval import files
from carp_eval.features.bank import Bank
from carp_eval.features.search.neighbours import Neighbours


def write(path: Path, queries: Bank, near: Neighbours) -> None:
    """Write neighbours to Parquet: a line for each query and rank, with query, key, rank, row and similarity.

    Raises:
        StorageError: If the disk is full, read-only or closed to us.
    """
    count, k = near.indices.shape
    numbers = np.arange(count).repeat(k)
    # A name on disk need not be valid text.
    keys = np.array([key.encode("utf-8", "replace").decode() for key in queries.keys], dtype=object)
    table = pa.table(
        {
            "query": numbers,
            "key": keys[numbers],
            "rank": np.tile(np.arange(1, k + 1), count),
            "row": near.indices.flatten().numpy(),
            "similarity": near.similarities.flatten().numpy(),
        }
    )
    with files.replacing(path) as beside:
        pq.write_table(table, beside)

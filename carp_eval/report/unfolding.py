"""UMAP of the rows of a bank: seeded, and in a time that is known.

UMAP's own search for neighbours and its spectral start take minutes at 20,000 rows and two cores. Here neighbours come
from the exact search that protocols use, and rows start where their principal components put them, which also keeps far
apart what is far apart (Kobak and Linderman, Nature Biotechnology 2021).
"""

import warnings
from importlib import import_module
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from carp_eval.features.search.in_memory import search

NEIGHBOURS = 15
# UMAP's own, for many rows; for few it would take 500.
EPOCHS = 200
# What coordinates reach to at the start, as UMAP scales its own.
REACH = 10.0


def unfold(
    rows: Float32[Tensor, "row dim"], start: Float32[Tensor, "row axis"], *, seed: int
) -> Float32[Tensor, "row axis"] | None:
    """Lay rows out so that neighbours are near each other.

    Args:
        rows: Of unit length; more than 15.
        start: Where they are at first.
        seed: Of the moves; the same seed and machine give the same plane.

    Returns:
        The coordinates; None where there is no plane of them, as of rows that are all alike.

    Raises:
        ImportError: If UMAP cannot be loaded.
    """
    with warnings.catch_warnings():
        # Of syntax in its dependencies, and of new rows that it could not place: there are none.
        warnings.simplefilter("ignore")
        umap: Any = import_module("umap")
        near = search(rows, rows, k=NEIGHBOURS)
        distances = (1 - near.similarities).clamp(min=0).numpy().astype(np.float32)
        reach = float(start.abs().max()) or 1.0
        fitted: Any = umap.UMAP(
            n_components=2,
            n_neighbors=NEIGHBOURS,
            metric="cosine",
            precomputed_knn=(near.indices.numpy(), distances),
            init=(start / reach * REACH).numpy(),
            n_epochs=EPOCHS,
            random_state=seed,
            # What a seed makes it anyway, with a warning.
            n_jobs=1,
        )
        threads = torch.get_num_threads()
        try:
            placed = torch.from_numpy(np.asarray(fitted.fit_transform(rows.numpy()), dtype=np.float32))
        finally:
            # numba sets the number for the whole process, torch's work included.
            torch.set_num_threads(threads)
    return placed if bool(placed.isfinite().all()) else None

"""The results that were pushed with a model, fetched from the Hub."""

import re
from pathlib import Path

from carp_eval.checkpoints.publishing import getting
from carp_eval.checkpoints.publishing.sending import Progress
from carp_eval.errors import HubError

RECORDS = (r"results/[\w.@+=,-]+\.json",)


def results_of(spelling: str, *, endpoint: str | None = None, progress: Progress | None = None) -> Path:
    """Fetch the records of a model's results, and no weights, and return the folder they lie in.

    Args:
        spelling: `hf:USER/NAME`, `@` and a branch, tag or commit behind it.
        endpoint: The Hub's address; None is the usual one.
        progress: Is told the bytes that came, and of how many.

    Raises:
        UsageError: If it is spelled otherwise.
        HubError: If the Hub cannot be reached or refuses, or the repository holds no result.
        CheckpointError: If a file does not come whole.
        StorageError: If the disk refuses.
    """
    snap = getting.snapshot(spelling, only=RECORDS, endpoint=endpoint, progress=progress)
    if not any(re.fullmatch(RECORDS[0], name) for name in snap.files):
        held = ", ".join((*snap.files, *snap.left)[:8]) or "nothing"
        raise HubError(
            f"{snap.repo} holds no result that carp pushed, but {held}: measure it yourself, with carp eval knn -m "
            f"hf:{snap.repo}"
        )
    return snap.folder / "results"

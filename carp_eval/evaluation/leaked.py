"""Near-duplicates among scored images, for protocols that have no bank of what they learn from."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from carp_eval.data.images import Images
from carp_eval.errors import UsageError
from carp_eval.evaluation import leaks
from carp_eval.evaluation.job import Job

SHOWN = 3


class Scored(NamedTuple):
    """Which images are scored.

    Attributes:
        kept: For each image of the split, whether it is.
        notes: What a reader of the scores must know of the others.
        counts: What was counted.
    """

    kept: Bool[np.ndarray, " image"]
    notes: tuple[str, ...]
    counts: dict[str, int]


def scored(job: Job, learnt: Images, queries: Images) -> Scored:
    """Count near-duplicates of images to learn from, and leave them out where the job says so.

    All images of the split count as learnt from, also where only some are drawn. Every process must call this.

    Args:
        job: The evaluation.
        learnt: The whole split that is learnt from.
        queries: The split that is scored.

    Raises:
        UsageError: If no image is left to score.
        BadImageError: If an image cannot be read, and such images are not left out.
    """
    kept = np.ones(len(queries), dtype=bool)
    if job.leaks == "ignore" or learnt.manifest_sha256 == queries.manifest_sha256:
        return Scored(kept, (), {})
    pairs = leaks.find(learnt, queries, settings=job.settings, bar=job.bar)
    counts = {"leaks": len(pairs)}
    if not pairs:
        return Scored(kept, (), counts)
    shown = ", ".join(f"{queries.key(pair.query)} of {learnt.key(pair.bank)}" for pair in pairs[:SHOWN])
    told = (
        f"{len(pairs)} of {len(queries)} queries ({len(pairs) / len(queries):.2%}) are near-duplicates of images to "
        f"learn from, such as {shown}"
    )
    if job.leaks == "count":
        return Scored(kept, (f"{told}; --drop-leaks leaves them out",), counts)
    kept[[pair.query for pair in pairs]] = False
    if not kept.any():
        raise UsageError(f"{told}: with --drop-leaks nothing is left to score")
    return Scored(kept, (f"{told}; they were left out",), counts)

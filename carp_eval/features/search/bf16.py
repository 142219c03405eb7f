"""Neighbours chosen by products in bf16, and the proof that none was missed.

bf16 has eight bits, and where a processor multiplies it, is two to sixteen times as fast as float32. By how much such a
product can be off is known from the vectors: what rounding took from each has a length, and an inner product moves by
no more than the product of lengths (Cauchy and Schwarz). So more rows are fetched than are wanted, and compared again:
where the k-th lies further above all that was not fetched than a product can be off, the k are the nearest.
"""

import math
import time
from functools import cache

import torch
from jaxtyping import Bool, Float32, Float64
from torch import Tensor

from carp_eval.features.search.exact import dots, float32_error
from carp_eval.features.search.in_memory import MARGIN
from carp_eval.features.search.neighbours import Neighbours, in_order
from carp_eval.features.search.slabs import Best, TorchFinder
from carp_eval.features.stored import PART_VALUES, StoredRows

# What is looked at to find where a bank's centre is.
CENTRE_ROWS = 4096
# A product is rounded to eight bits at last: it moves by this share of itself, and a little for its own rounding.
ROUNDING = 2.0**-9 * 1.01
# Units that multiply bf16 need not round each sum to nearest, as float32_error assumes.
CARELESS_SUMS = 8
# A processor that is only a little faster in bf16 loses that to comparing again.
WORTH_CHANGING = 0.75
# Which of them is faster is tried so often, on some milliseconds of work, and given up where bf16 is only emulated.
TURNS = 7
SLOW_SECONDS = 0.2


class Bf16Finder(TorchFinder):
    """Chooses by products in bf16 of queries and of what tells rows apart: the rows without their centre.

    A centre adds the same to all of a query's similarities, so the eight bits tell neighbours apart and not the bank
    from zero.
    """

    def __init__(
        self, bank: StoredRows, queries: Float32[Tensor, "query dim"], *, device: torch.device
    ) -> None:
        super().__init__(queries, device=device, dtype=torch.bfloat16)
        sample = torch.arange(0, len(bank), max(1, len(bank) // CENTRE_ROWS))
        self._centre = bank.take(sample).mean(dim=0).to(device)
        # Of rows without their centre: the greatest length, and the most that rounding took from one.
        self.learnt = {name: torch.zeros((), device=device) for name in ("length", "rounded_off")}

    def load(self, slab: Float32[Tensor, "row dim"], *, first: int) -> None:
        """Make the next slab ready."""
        self._slab = self._queries[:0]
        moved = slab.to(self.device, non_blocking=True)
        self._slab = torch.empty(moved.shape, device=self.device, dtype=torch.bfloat16)
        step = max(1, PART_VALUES // slab.shape[1])
        for part, half in zip(moved.split(step), self._slab.split(step), strict=True):
            half.copy_(part.sub_(self._centre))
            self._learn("length", part)
            self._learn("rounded_off", part.sub_(half))
        self._first = first

    def _learn(self, name: str, vectors: Float32[Tensor, "row dim"]) -> None:
        longest = torch.linalg.vector_norm(vectors, dim=1).amax()
        self.learnt[name] = torch.maximum(self.learnt[name], longest)

    def centred(self, queries: Float32[Tensor, "query dim"]) -> Float64[Tensor, " query"]:
        """Return what the centre adds to each query's similarities."""
        return queries.double() @ self._centre.cpu().double()

    def error(self, queries: Float32[Tensor, "query dim"]) -> Float64[Tensor, " query"]:
        """Bound how far each query's products may be off before they are rounded themselves, whatever the row."""
        length = queries.double().norm(dim=1)
        rounded_off = (queries.double() - queries.bfloat16().double()).norm(dim=1)
        # A centre is taken away in float32.
        longest, row_rounded_off = float(self.learnt["length"]), float(self.learnt["rounded_off"]) + 2.0**-22
        sums = CARELESS_SUMS * float32_error(queries.shape[1]) * length * longest
        return rounded_off * longest + (length + rounded_off) * row_rounded_off + sums


def proven(
    bank: StoredRows, finder: Bf16Finder, queries: Float32[Tensor, "query dim"], best: Best, *, k: int
) -> tuple[Neighbours, Bool[Tensor, " query"]]:
    """Put what was fetched in order, and tell where that is proven to be the order of the whole bank.

    Args:
        bank: The rows, all of which the finder has met.
        finder: What chose.
        queries: Some queries.
        best: What it fetched for them.
        k: How many to keep of those.

    Returns:
        The neighbours: similarity descending, then row ascending; and which queries surely have no other.
    """
    rows, rough = best.rows.cpu(), best.similarities.cpu().double()
    if not rows.numel():
        return Neighbours(rough[:, :k], rows[:, :k]), torch.ones(len(rows), dtype=torch.bool)
    numbers = torch.arange(len(queries)).repeat_interleave(rows.shape[1])
    similarities = dots(bank, queries, rows.flatten(), numbers, dtype=torch.float32).view(rows.shape)
    rounding = queries.double().norm(dim=1) * bank.longest * float32_error(bank.dim)
    error = finder.error(queries) + ROUNDING * rough.abs().amax(dim=1) + rounding
    off = (similarities.double() - finder.centred(queries)[:, None] - rough).abs()
    unseen = rough[:, -1] + finder.centred(queries)
    similarities, order = similarities.sort(dim=1, descending=True)
    # What lies this far above all that was not fetched comes before it.
    sure = (off <= error[:, None]).all(dim=1) & (similarities[:, k - 1] - rounding > unseen + error)
    head = slice(k + MARGIN)
    near, close, doubtful = in_order(
        bank, queries, similarities[:, head].numpy(), rows.gather(1, order)[:, head].numpy(), rounding.numpy()
    )
    if close.shape[1] >= k:
        doubtful |= close[:, k - 1 :].all(axis=1)
    near = Neighbours(near.similarities[:, :k].contiguous(), near.indices[:, :k].contiguous())
    return near, sure & ~torch.from_numpy(doubtful)


@cache
def is_faster(device: torch.device, dim: int) -> bool:
    """Tell whether products in bf16 take well less time here than those in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    full = torch.ones(256, dim), torch.ones(1024, dim)
    half = full[0].bfloat16(), full[1].bfloat16()
    least, least_half = math.inf, math.inf
    # In turns, as other work on the machine comes and goes.
    for _ in range(TURNS):
        least, least_half = min(least, _seconds(*full)), min(least_half, _seconds(*half))
        if least_half > SLOW_SECONDS:
            return False
    return least_half < WORTH_CHANGING * least


def _seconds(queries: Tensor, rows: Tensor) -> float:
    started = time.perf_counter()
    torch.mm(queries, rows.T)
    return time.perf_counter() - started

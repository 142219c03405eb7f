"""What losses need of the images of all processes, such that gradients are those of the whole batch.

DistributedDataParallel averages the gradients of its processes. So that the average is the whole batch's, a process
gives the whole batch's value with the gradient in its own images alone.
"""

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Shaped
from torch import Tensor

from carp_eval import distributed


def mean(local: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Return the mean of a tensor over all processes, with the gradient in this one's alone.

    Args:
        local: A mean over this process's images; all processes have as many.
    """
    if distributed.world_size() == 1:
        return local
    everywhere = distributed.sum_in_place(local.detach().clone()) / distributed.world_size()
    return local + (everywhere - local.detach())


def gather(rows: Float[Tensor, "image *axes"]) -> Float[Tensor, "all *axes"]:
    """Return the rows of all processes, by rank; gradients find their way back to the process of a row.

    A loss that is the mean over this process's rows of something about all gathered ones has, averaged over processes,
    the gradient of the whole batch.

    Args:
        rows: This process's; all processes have as many.
    """
    if distributed.world_size() == 1:
        return rows
    gathered = _Gather.apply(rows)
    assert isinstance(gathered, Tensor)
    return gathered


def gather_plain(rows: Shaped[Tensor, "image *axes"]) -> Shaped[Tensor, "all *axes"]:
    """Return the rows of all processes, by rank, without gradient."""
    rows = rows.detach().contiguous()
    if distributed.world_size() == 1:
        return rows
    gathered = [torch.empty_like(rows) for _ in range(distributed.world_size())]
    dist.all_gather(gathered, rows)
    return torch.cat(gathered)


class _Gather(torch.autograd.Function):
    """Gathers rows; each process's get the sum of what all processes' losses say of them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.count = len(rows)
        return gather_plain(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = distributed.sum_in_place(gradients[0].clone())
        return total.narrow(0, distributed.rank() * ctx.count, ctx.count)

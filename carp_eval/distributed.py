"""Ranks, gathers and reductions: the same calls with one process and with many."""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor


def is_initialised() -> bool:
    """Tell whether this process is one of a group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return this process's number, from 0."""
    return dist.get_rank() if is_initialised() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if is_initialised() else 1


def is_main() -> bool:
    """Tell whether this process is the one that prints and writes."""
    return rank() == 0


def sum_in_place(tensor: Tensor) -> Tensor:
    """Replace a tensor by its sum over all processes, without gradient, and return it."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def broadcast_in_place(tensor: Tensor) -> Tensor:
    """Replace a tensor by the main process's, and return it."""
    if world_size() > 1:
        dist.broadcast(tensor, src=0)
    return tensor


def gather_objects(item: Any) -> list[Any]:
    """Return every process's item, by rank. Items travel pickled: only between our own processes."""
    if world_size() == 1:
        return [item]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, item)
    return gathered


def any_process(flag: bool) -> bool:  # noqa: FBT001 - a predicate's only argument
    """Tell whether the flag is set in any process."""
    if world_size() == 1:
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(int(flag), device=device)
    dist.all_reduce(tensor, op=cast(Any, dist.ReduceOp.MAX))
    return bool(tensor.item())


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()

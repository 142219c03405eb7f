"""Ranks, gathers and reductions: the same calls with one process and with many."""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from carp_eval.errors import CarpError

Answer = TypeVar("Answer")

# The others wait while the main process clusters, or one of them loads the last images.
PATIENCE = timedelta(days=1)


def join() -> None:
    """Become one of the group that torchrun has started; nothing where it has not, or where this is one already."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not is_initialised():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)


def leave() -> None:
    """Leave the group."""
    if is_initialised():
        dist.destroy_process_group()


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


def on_main(action: Callable[[], Answer]) -> Answer:
    """Do something in the main process, and tell all the answer, or that it failed.

    Raises:
        CarpError: In all processes, if it failed.
    """
    answer: Answer | None = None
    with failing_together():
        if is_main():
            answer = action()
    return cast(Answer, gather_objects(answer)[0])


@contextmanager
def failing_together() -> Generator[None]:
    """Let an error of one process end all, instead of leaving the others waiting for it.

    Raises:
        CarpError: If the block fails in any process.
    """
    error: CarpError | None = None
    try:
        yield
    except CarpError as caught:
        error = caught
    messages = gather_objects("" if error is None else str(error))
    if error is not None:
        raise error
    for number, message in enumerate(messages):
        if message:
            raise CarpError(f"process {number} has stopped: {message}")

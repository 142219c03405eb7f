"""Ranks, gathers and reductions: the same calls with one process and with many."""

import os
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from carp_eval.errors import CarpError, TrainingError

Answer = TypeVar("Answer")

# The others wait while the main process clusters, or one of them loads the last images.
PATIENCE = timedelta(days=1)
# Machines of a cluster may not come at the same time.
START = timedelta(minutes=30)
# Processes that wait for the same one give up at about the same time.
ROLL_CALL_SECONDS = 5.0

# Where the processes find one another. torch has these names, and does not say so to type checkers.
_stores: list[Any] = []


def join(*, patience: timedelta = PATIENCE) -> None:
    """Become one of the group that torchrun has started; nothing where it has not, or where this is one already.

    Args:
        patience: How long the processes wait for one another.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not is_initialised():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torchs = cast(Any, dist)
        store, rank, world_size = next(torchs.rendezvous("env://"))
        # Some start later than others, however little patience there is afterwards.
        store.set(f"here/{rank}", "")
        store.wait([f"here/{number}" for number in range(world_size)], START)
        dist.init_process_group(
            backend,
            store=torchs.PrefixStore("group", store),
            rank=rank,
            world_size=world_size,
            timeout=patience,
        )
        _stores[:] = [torchs.PrefixStore("carp", store)]


def leave() -> None:
    """Leave the group."""
    _stores.clear()
    if is_initialised():
        dist.destroy_process_group()


def launchers() -> list[str]:
    """Return what tells the launch of these processes from all others: the name of torchrun's agent on each machine.

    An agent that starts its processes again keeps its name. Empty where torchrun has started none.
    """
    # A folder that the agent has made for itself, and in it one for each attempt.
    folder, found, _ = os.environ.get("TORCHELASTIC_ERROR_FILE", "").partition("/attempt_")
    own = f"{socket.gethostname()}:{Path(folder).name}" if found else ""
    return sorted({name for name in gather_objects(own) if name})


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


def any_of_each(*flags: bool) -> list[bool]:
    """Tell of each flag whether it is set in any process."""
    if world_size() == 1:
        return list(flags)
    tensor = torch.tensor(flags, dtype=torch.int64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(tensor, op=cast(Any, dist.ReduceOp.MAX))
    return [bool(flag) for flag in tensor.tolist()]


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


def on_main(action: Callable[[], Answer]) -> Answer:
    """Do something in the main process, and tell all the answer, or that it failed.

    Raises:
        CarpError: In all processes, if it failed.
    """
    answer: list[Any] = [None]
    with failing_together():
        if is_main():
            answer[0] = action()
    if world_size() > 1:
        mine = answer[0]
        dist.broadcast_object_list(answer, src=0)
        answer[0] = mine if is_main() else answer[0]
    return cast(Answer, answer[0])


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
    share_error(error)


def share_error(error: CarpError | None) -> None:
    """Let an error of one process be one of all; all call it together, those without an error with None.

    Raises:
        CarpError: If any process has one. The main process is the one to tell it.
    """
    if world_size() == 1:
        if error is not None:
            raise error
        return
    told: list[tuple[str, str]] = gather_objects(("" if error is None else str(error), socket.gethostname()))
    several = len({host for _, host in told}) > 1
    for number, (message, host) in enumerate(told):
        if message:
            where = f"process {number}{f' on {host}' if several else ''}"
            error = error or CarpError(f"{where} has stopped: {message}")
            error.told = not is_main()
            raise error


def check_same(what: str, value: Any) -> None:
    """Make sure that all processes mean the same.

    Args:
        what: What the value is of, as in "another ... than process 0".
        value: This process's.

    Raises:
        TrainingError: In all processes, if one has another value than the main process.
    """
    found = gather_objects((value, socket.gethostname()))
    for number, (other, host) in enumerate(found):
        if other != found[0][0]:
            error = TrainingError(
                f"process {number} on {host} has another {what} than process 0 on {found[0][1]}: give all machines the "
                "same"
            )
            error.told = not is_main()
            raise error


@contextmanager
def noticing_absence() -> Generator[None]:
    """Say in words that another process has died, or which one does not answer.

    Raises:
        TrainingError: If the others could not be reached, or were waited for in vain.
    """
    try:
        yield
    except RuntimeError as error:
        words = str(error)
        # The library that waits has no error of its own, and these words.
        of_waiting = any(known in words for known in ("gloo", "pair closure", "Connection closed by peer"))
        if world_size() == 1 or not (isinstance(error, dist.DistError) or of_waiting):
            raise
        raise _absence(waited="imed out" in words or "imeout" in words) from error


def _absence(*, waited: bool) -> TrainingError:
    """Return the error for a broken connection; of the processes that are left, the first one tells it."""
    told, silent = False, list[int]()
    try:
        for store in _stores:
            store.set(f"waits/{rank()}", "")
            told = store.add("tellers", 1) > 1
            if waited:
                time.sleep(ROLL_CALL_SECONDS)
                silent = [number for number in range(world_size()) if not store.check([f"waits/{number}"])]
    except RuntimeError:
        # Who kept the store is gone too.
        silent = []
    if silent:
        names = " and ".join(f"process {number}" for number in silent)
        reason = f"{names} did not answer, and the others have waited as long as --patience says"
    elif waited:
        reason = "a process did not answer, and the others have waited as long as --patience says"
    else:
        reason = "the connection to another process broke: it has died; torchrun says which"
    error = TrainingError(f"{reason}. The last checkpoint is good: the run can go on from it")
    error.told = told
    return error

"""Batches that are on their way to a GPU while it works on the one before."""

from collections.abc import Iterator

import torch

from carp_eval.data.training_batches import TrainingBatch


def ahead(batches: Iterator[TrainingBatch], device: torch.device) -> Iterator[TrainingBatch]:
    """Yield batches one later than they are made; on a CPU, as they are made.

    A GPU copies and finishes the next batch in a queue of its own, beside the step's.

    Args:
        batches: What is made on the device, when it is asked for.
        device: Where they lie.
    """
    if device.type != "cuda":
        yield from batches
        return
    beside = torch.cuda.Stream(device)
    # What batches are made of, pixels and tables, may still be on its way.
    beside.wait_stream(torch.cuda.current_stream(device))
    made = _next(batches, beside)
    while made is not None:
        (batch, done), made = made, _next(batches, beside)
        here = torch.cuda.current_stream(device)
        done.wait(here)
        for view in batch.views:
            # Its memory belongs to the other queue, which may take it back only once this one is done with it.
            view.record_stream(here)
        yield batch


def _next(
    batches: Iterator[TrainingBatch], beside: torch.cuda.Stream
) -> tuple[TrainingBatch, torch.cuda.Event] | None:
    """Have a batch made, and note when it is done."""
    with torch.cuda.stream(beside):
        batch = next(batches, None)
        if batch is None:
            return None
        done = torch.cuda.Event()
        done.record(beside)
        return batch, done

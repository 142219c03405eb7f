"""A loss taken by two processes, each with half of the images, and its gradients averaged as DDP does."""

import numpy as np
import torch
import torch.distributed as dist

from tests.features.processes import Started


def halves(loss_of, embeddings, folder):
    """Return the two processes' losses, and the gradient in all embeddings `[view, image, dim]`, averaged over them."""
    started = [
        Started(_take, loss_of, half, str(folder / "store"), rank)
        for rank, half in enumerate(embeddings.chunk(2, dim=1))
    ]
    answers = [process.answer() for process in started]
    assert None not in answers
    return [answer[0] for answer in answers], torch.from_numpy(
        np.concatenate([answer[1] for answer in answers], axis=1)
    ) / 2


def whole(loss_of, embeddings):
    """Return the loss of one process with all images, and its gradient."""
    given = embeddings.clone().requires_grad_()
    loss = loss_of(given)
    loss.backward()
    return loss.item(), given.grad


def _take(loss_of, half, store, rank):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        given = half.clone().requires_grad_()
        loss = loss_of(given)
        loss.backward()
        # Not a tensor: its memory would have to outlive this process.
        return loss.item(), given.grad.numpy()
    finally:
        dist.destroy_process_group()

"""Tensors on their way to a device, without waiting for it."""

import torch
from torch import Tensor


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; a GPU copies while this process goes on.

    Args:
        tensor: Anywhere; what lies in memory that is not pinned is copied into such memory first.
        device: Where it is wanted.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    # From memory that is not pinned, CUDA waits for all work that is queued before it copies.
    return tensor.pin_memory().to(device, non_blocking=True)

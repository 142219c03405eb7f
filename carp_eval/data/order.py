"""Which images a training step takes: an order of chance that depends on nothing but the seed and the epoch."""

import numpy as np
import torch
from jaxtyping import Int64

from carp_eval import seeds
from carp_eval.errors import DataError, UsageError


def num_steps(num_images: int, batch_size: int) -> int:
    """Return the steps of an epoch; the images of a last batch that is not full wait for another epoch.

    Args:
        num_images: Images in the split.
        batch_size: Images in a step, over all processes.

    Raises:
        DataError: If there are fewer images than one batch takes.
    """
    if num_images < batch_size:
        raise DataError(
            f"a batch takes {batch_size} images and the data set has {num_images}; "
            f"use a smaller batch size or more images"
        )
    return num_images // batch_size


def check_share(batch_size: int, world_size: int) -> None:
    """Check that the processes can share a batch.

    Raises:
        UsageError: If they cannot share it evenly.
    """
    if batch_size % world_size:
        raise UsageError(f"a batch of {batch_size} images cannot be shared evenly by {world_size} processes")


def epoch_steps(
    num_images: int,
    *,
    seed: int,
    epoch: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
) -> Int64[np.ndarray, "step image"]:
    """Deal the images of an epoch to its steps, and each step's to the processes.

    Args:
        num_images: Images in the split.
        seed: Of the whole training.
        epoch: From 0.
        batch_size: Images in a step, over all processes.
        rank: This process.
        world_size: Processes; all together take the same images at a step as one process would.
        start_step: How many steps of this epoch were taken before.

    Returns:
        The numbers of this process's images, step by step.

    Raises:
        DataError: If there are fewer images than one batch takes.
        UsageError: If the processes cannot share a batch evenly.
    """
    check_share(batch_size, world_size)
    steps = num_steps(num_images, batch_size)
    chance = seeds.generator(seed, "order", epoch)
    order = torch.randperm(num_images, generator=chance)[: steps * batch_size].numpy()
    return order.reshape(steps, world_size, -1)[start_step:, rank]

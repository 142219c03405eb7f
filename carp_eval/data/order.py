"""Which images a training step takes: an order of chance that depends on nothing but the seed and the epoch."""

import numpy as np
import torch
from jaxtyping import Int64

from carp_eval import seeds
from carp_eval.errors import DataError, UsageError

# Shards that are mixed with one another: 16,000 images where a shard has a thousand, as is usual.
WINDOW = 16


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
    shard_sizes: Int64[np.ndarray, " shard"] | None = None,
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
        shard_sizes: Images of each shard, where images are to be taken shard by shard (see `by_shard`); left out, any
            image may come next.

    Returns:
        The numbers of this process's images, step by step.

    Raises:
        DataError: If there are fewer images than one batch takes.
        UsageError: If the processes cannot share a batch evenly.
    """
    check_share(batch_size, world_size)
    steps = num_steps(num_images, batch_size)
    if shard_sizes is None:
        chance = seeds.generator(seed, "order", epoch)
        order = torch.randperm(num_images, generator=chance).numpy()
    else:
        order = by_shard(shard_sizes, seed=seed, epoch=epoch, window=WINDOW)
    return order[: steps * batch_size].reshape(steps, world_size, -1)[start_step:, rank]


def by_shard(
    sizes: Int64[np.ndarray, " shard"], *, seed: int, epoch: int, window: int
) -> Int64[np.ndarray, " image"]:
    """Order the images of an epoch so that those of one shard come near each other.

    The shards are shuffled and dealt to windows of so many; the images of a window are shuffled among each other, and
    one window follows the other. So no more than two windows' shards are read at a time, however large the data, and
    each byte is read once in an epoch. With as many shards as one window takes, every order is as likely as any other.

    Args:
        sizes: Images of each shard, in the order in which the images are numbered.
        seed: Of the whole training.
        epoch: From 0.
        window: Shards that are mixed with one another.

    Returns:
        The number of every image, once.
    """
    chance = seeds.generator(seed, "shards", epoch)
    shards: list[int] = torch.randperm(len(sizes), generator=chance).tolist()
    ends: list[int] = np.cumsum(sizes).tolist()
    order: list[Int64[np.ndarray, " image"]] = [np.empty(0, dtype=np.int64)]
    for place, first in enumerate(range(0, len(shards), window)):
        rows = [
            np.arange(ends[shard] - int(sizes[shard]), ends[shard])
            for shard in shards[first : first + window]
        ]
        together = np.concatenate(rows)
        chance = seeds.generator(seed, "window", epoch, place)
        order.append(together[torch.randperm(len(together), generator=chance).numpy()])
    return np.concatenate(order)

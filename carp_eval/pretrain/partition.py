"""Partitions of the prototypes into blocks: CARP, section 4 and Table 7.

Block j of a partition is row j: the numbers of its members. Where the block size does not divide the
number of prototypes, the last few of the order are in no block, as in the authors' code: they take no
part in that step and get no gradient.
"""

import torch
from jaxtyping import Int64
from torch import Tensor

ALONE = "alone in its block, a prototype is assigned with certainty whatever the view, and the loss is 0"


def num_dropped(num_prototypes: int, *, block_size: int) -> int:
    """Return how many prototypes are in no block, because the block size does not divide them.

    Args:
        num_prototypes: Prototypes there are, K.
        block_size: Prototypes in a block, N_B.

    Raises:
        ValueError: If the block size is below 2 or above the number of prototypes.
    """
    return num_prototypes - _num_blocks(num_prototypes, block_size) * block_size


def draw(
    num_prototypes: int, *, block_size: int, generator: torch.Generator
) -> Int64[Tensor, "block member"]:
    """Draw a partition at random: a new one at every call.

    Args:
        num_prototypes: Prototypes there are, K.
        block_size: Prototypes in a block, N_B.
        generator: Where the randomness comes from; all processes of a training must draw the same.

    Returns:
        The members of each block, on the generator's device; no prototype is in two blocks.

    Raises:
        ValueError: If the block size is below 2 or above the number of prototypes.
    """
    num_blocks = _num_blocks(num_prototypes, block_size)
    order = torch.randperm(num_prototypes, generator=generator, device=generator.device)
    return order[: num_blocks * block_size].view(num_blocks, block_size)


def constant(num_prototypes: int, *, block_size: int) -> Int64[Tensor, "block member"]:
    """Return the partition into sequential blocks, which is the same at every step.

    Args:
        num_prototypes: Prototypes there are, K.
        block_size: Prototypes in a block, N_B.

    Raises:
        ValueError: If the block size is below 2 or above the number of prototypes.
    """
    num_blocks = _num_blocks(num_prototypes, block_size)
    return torch.arange(num_blocks * block_size).view(num_blocks, block_size)


def check(partition: Int64[Tensor, "block member"], *, num_prototypes: int) -> None:
    """See that a partition is one of these prototypes.

    Args:
        partition: The members of each block.
        num_prototypes: Prototypes there are, K.

    Raises:
        ValueError: If it has no block, blocks of one, a prototype that is not there, or one
            that stands in it twice.
    """
    if partition.ndim != 2 or len(partition) < 1 or partition.shape[1] < 2:
        raise ValueError(
            "expected a partition [block, member] with at least one block of at least two prototypes, got "
            f"{list(partition.shape)}: {ALONE}"
        )
    lowest, highest = (int(bound) for bound in partition.aminmax())
    if lowest < 0 or highest >= num_prototypes:
        raise ValueError(
            f"the partition names prototypes {lowest} to {highest}, there are 0 to {num_prototypes - 1}: "
            "draw it for as many as there are"
        )
    named = torch.zeros(num_prototypes, dtype=torch.bool, device=partition.device)
    named[partition.flatten()] = True
    if int(named.sum()) < partition.numel():
        raise ValueError("a prototype stands in the partition twice: each may be in one block alone")


def _num_blocks(num_prototypes: int, block_size: int) -> int:
    if block_size < 2:
        raise ValueError(f"a block needs at least 2 prototypes, got a block size of {block_size}: {ALONE}")
    if block_size > num_prototypes:
        raise ValueError(
            f"a block of {block_size} prototypes cannot be drawn from {num_prototypes}: "
            "take a smaller block size or more prototypes"
        )
    return num_prototypes // block_size

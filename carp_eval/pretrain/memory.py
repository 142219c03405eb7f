"""What a step takes of memory and time: the options of a recipe's `compute` table, put into its networks.

The networks keep their classes' names of entries, so that a checkpoint opens everywhere, and a run may go on with
other options than it began with.
"""

import os
import shutil
import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage] - SyncBatchNorm's base too
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck

from carp_eval.cards.recipe import ComputeCard
from carp_eval.errors import UsageError
from carp_eval.models.small import SmallTrunk
from carp_eval.pretrain.method import Method


def prepare(method: Method, card: ComputeCard, *, device: torch.device) -> None:
    """Let a method's networks compute as the card says.

    Call it before they are wrapped for several processes. What a teacher computes has no gradient, so there is nothing
    of it to keep.

    Args:
        method: The method, whose networks are changed in place.
        card: The options.
        device: Where they compute.

    Raises:
        UsageError: If there is no compiler that works, or nothing that could be computed again.
    """
    if card.checkpoint_activations:
        checkpoint_activations(method.student.trunk)
    if card.compile:
        check_compiler(device)
    for network in (method.student, method.teacher):
        if network is None:
            continue
        if card.channels_last:
            network.trunk.register_forward_pre_hook(_channels_last)
        if card.compile:
            # In place: a wrapper would change the names of all entries. Few sizes come by, and one that is known
            # makes for faster code.
            network.trunk.compile(dynamic=False)


def checkpoint_activations(trunk: nn.Module) -> None:
    """Let each block of a trunk keep its input alone, and compute the rest again when the gradient comes by.

    Losses and gradients stay the same, and so do BatchNorm's running statistics, which only the first pass moves.

    Raises:
        UsageError: If the trunk has no blocks that are known.
    """
    blocks = [module for module in trunk.modules() if type(module) in _CHECKPOINTED]
    if not blocks:
        raise UsageError(
            "compute.checkpoint_activations expects a trunk of residual blocks, and a "
            f"{type(trunk).__name__} has none: leave it out"
        )
    for block in blocks:
        # Not a wrapper, which would change the names of entries, nor a function put into the block, which a copy of
        # the block would share with it.
        block.__class__ = _CHECKPOINTED[type(block)]


class CheckpointedBasicBlock(BasicBlock):
    """A residual block of two convolutions that is computed again for its gradient."""

    def forward(self, x: Float[Tensor, "image _ _ _"]) -> Float[Tensor, "image _ _ _"]:
        """Do what the block does."""
        return _twice(self, super().forward, x)


class CheckpointedBottleneck(Bottleneck):
    """A residual block of three convolutions that is computed again for its gradient."""

    def forward(self, x: Float[Tensor, "image _ _ _"]) -> Float[Tensor, "image _ _ _"]:
        """Do what the block does."""
        return _twice(self, super().forward, x)


class CheckpointedSmallTrunk(SmallTrunk):
    """The quickstart's trunk, each of whose layers is computed again for its gradient."""

    def forward(self, input: Float[Tensor, "image channel height width"]) -> Float[Tensor, "image feature"]:
        """Do what the trunk does."""
        maps = input
        for start in range(0, len(self), 3):
            part = nn.Sequential(*list(self)[start : start + 3])
            maps = _twice(part, part.forward, maps)
        return maps


_CHECKPOINTED: dict[type[nn.Module], type[nn.Module]] = {
    BasicBlock: CheckpointedBasicBlock,
    Bottleneck: CheckpointedBottleneck,
    SmallTrunk: CheckpointedSmallTrunk,
}


def _twice(module: nn.Module, forward: Any, maps: Tensor) -> Tensor:
    """Compute a module now, keeping its input alone, and again when its gradient is wanted."""
    if not torch.is_grad_enabled():
        return forward(maps)
    return cast(Tensor, checkpoint(forward, maps, use_reentrant=False, context_fn=partial(_contexts, module)))


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _still_statistics(module)


@contextmanager
def _still_statistics(module: nn.Module) -> Generator[None]:
    """Keep BatchNorm's running statistics as they are; in training it normalises by the batch as ever.

    By a momentum of 0: without statistics to track, it would keep other tensors for the gradient than it did before.
    """
    moving = [
        (norm, norm.momentum, norm.num_batches_tracked)
        for norm in module.modules()
        if isinstance(norm, _BatchNorm) and norm.training
    ]
    for norm, _, _ in moving:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in moving:
            norm.momentum, norm.num_batches_tracked = momentum, count


def check_compiler(device: torch.device) -> None:
    """Make sure that `torch.compile` works here, before a training relies on it.

    Raises:
        UsageError: If it does not.
    """
    wanted = (
        "Triton and a C compiler" if device.type == "cuda" else "a C++ compiler (such as g++; CXX names it)"
    )
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    try:
        # A trial that ends for want of one takes half a minute.
        if device.type == "cpu" and shutil.which(compiler) is None:
            raise FileNotFoundError(f"there is no {compiler}")
        torch.compile(_some_function, dynamic=False)(torch.ones(64, device=device))
    except (RuntimeError, ImportError, OSError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UsageError(
            f"compute.compile needs {wanted} that torch.compile can use on {device}, and there is none that works "
            f"({reason.strip()}): install one, or leave compute.compile out"
        ) from error


def _some_function(numbers: Tensor) -> Tensor:
    return (numbers * 2).sin() + 1


def _channels_last(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:  # noqa: ARG001 - a hook's
    # Weights stay as they are: convolutions go by their input, and optimiser and checkpoint see nothing of it.
    images, *others = inputs
    return images.contiguous(memory_format=torch.channels_last), *others

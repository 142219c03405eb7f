"""From batches of images to features: the network's forward pass, and nothing else."""

import os
from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from carp_eval.data.images import Batch
from carp_eval.errors import UsageError

# Some images' features, and their numbers.
Part = tuple[Float32[Tensor, "_ _"], Int64[Tensor, "_"]]


def choose_device(name: str | None) -> torch.device:
    """Return the device that was asked for; None takes this process's GPU, or the processor where there is none.

    Raises:
        UsageError: If torch knows no such device, or cannot use it here.
    """
    if name is None:
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(f"the device {name!r} cannot be used here: {reason}. `cpu` always can") from error
    return device


def forward(
    network: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    precision: Literal["float32", "bf16"] = "float32",
) -> Iterator[Part]:
    """Run a network over batches, in evaluation mode and without gradients.

    The network moves to the device and to channels-last layout, and stays there: a ResNet-50 is a sixth faster for it
    on a processor. Whether its parts were in training mode is put back.

    Args:
        network: Maps images to features.
        batches: What it is run on.
        device: Where.
        precision: `bf16` runs in bfloat16 autocast.

    Yields:
        The features of each batch, on the processor, and its images' numbers.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.to(device, memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]
    try:
        last: tuple[Tensor, Tensor, torch.cuda.Event] | None = None
        for batch in batches:
            # Per batch, not around the loop: a generator that yields would leave its caller in these modes.
            with (
                torch.inference_mode(),
                torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"),
            ):
                images = batch.images.to(device, non_blocking=True, memory_format=torch.channels_last)
                features = network(images).float().to("cpu", non_blocking=True)
            if device.type != "cuda":
                yield features, batch.index
                continue
            copied = torch.cuda.Event()
            copied.record(torch.cuda.current_stream(device))
            # One batch behind, so that the GPU has the next one before anybody waits for this one.
            if last is not None:
                yield _arrived(*last)
            last = features, batch.index, copied
        if last is not None:
            yield _arrived(*last)
    finally:
        for module, training in modes:
            module.training = training


def _arrived(features: Tensor, index: Tensor, copied: torch.cuda.Event) -> Part:
    copied.synchronize()
    return features, index

"""From batches of images to features: the network's forward pass, and nothing else."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from carp_eval.data.images import Batch
from carp_eval.data.loading import PixelBatch
from carp_eval.errors import UsageError
from carp_eval.features.extraction.profile import DeviceTimer, Profile

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
    batches: Iterable[Batch | PixelBatch],
    *,
    device: torch.device,
    precision: Literal["float32", "bf16"] = "float32",
    finish: Callable[[Tensor], Tensor] | None = None,
    compiled: bool = False,
    profile: Profile | None = None,
) -> Iterator[Part]:
    """Run a network over batches, in evaluation mode and without gradients.

    The network moves to the device and to channels-last layout, and stays there: a ResNet-50 is a sixth faster for it
    on a processor. Whether its parts were in training mode is put back.

    Args:
        network: Maps images to features.
        batches: What it is run on.
        device: Where.
        precision: `bf16` runs in bfloat16 autocast.
        finish: What is still to be done to images, on the device.
        compiled: Whether torch compiles the network first, for a minute or so: what comes out differs by rounding.
        profile: Is told what it took.

    Yields:
        The features of each batch, on the processor, and its images' numbers.

    Raises:
        UsageError: If the network cannot be compiled here.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.to(device, memory_format=torch.channels_last).eval()  # pyright: ignore[reportCallIssue]
    run: Callable[[Tensor], Tensor] = torch.compile(network) if compiled else network
    try:
        last: _Running | None = None
        for batch in batches if profile is None else profile.batches(batches):
            timer = None if profile is None or profile.is_starting else DeviceTimer(device)
            # Per batch, not around the loop: a generator that yields would leave its caller in these modes.
            with (
                torch.inference_mode(),
                torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16"),
                _compiling(compiled=compiled),
            ):
                images = batch.images.to(device, non_blocking=True)
                if timer is not None:
                    timer.start()
                # In the layout in which it came: arithmetic by channel is slow in the other.
                images = images if finish is None else finish(images)
                features = run(images.contiguous(memory_format=torch.channels_last)).float()
                if timer is not None:
                    timer.stop()
                features = features.to("cpu", non_blocking=True)
            copied = None
            if device.type == "cuda":
                copied = torch.cuda.Event()
                copied.record(torch.cuda.current_stream(device))
            running = _Running(features, batch.index, copied, timer)
            if device.type != "cuda":
                yield _arrived(running, profile)
                continue
            # One batch behind, so that the GPU has the next one before anybody waits for this one.
            if last is not None:
                yield _arrived(last, profile)
            last = running
        if last is not None:
            yield _arrived(last, profile)
    finally:
        for module, training in modes:
            module.training = training


class _Running(NamedTuple):
    """A batch that was given to the device."""

    features: Tensor
    index: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]
    copied: torch.cuda.Event | None
    timer: DeviceTimer | None


def _arrived(running: _Running, profile: Profile | None) -> Part:
    if running.copied is not None:
        running.copied.synchronize()
    if profile is not None and running.timer is not None:
        profile.ran(len(running.index), running.timer.seconds())
    return running.features, running.index


@contextmanager
def _compiling(*, compiled: bool) -> Generator[None]:
    """Turn what the compiler refuses into a clear error."""
    if not compiled:
        yield
        return
    # Its errors have a name in a private module alone.
    compiler = cast(Any, import_module("torch._dynamo.exc"))
    try:
        yield
    except compiler.TorchDynamoException as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(f"torch cannot compile this network here ({reason}): leave --compile out") from error

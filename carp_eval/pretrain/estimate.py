"""What a training will need, said before it starts."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from carp_eval.cards.recipe import RecipeCard
from carp_eval.models.network import Network
from carp_eval.pretrain import memory
from carp_eval.pretrain.method import Method

PROBE_PIXELS = 2**19
OPTIMISER_COPIES = {"sgd": 1, "lars": 1, "adamw": 2}


@dataclass(frozen=True)
class Estimate:
    """What a training will need.

    Attributes:
        parameters: Of the student: trunk, head and what the method adds.
        bytes_needed: Weights, gradients, optimiser, teacher, activations and logits, per process.
        bytes_free: Memory that is free on the device now.
        seconds: The whole training, loading and evaluation not counted.
    """

    parameters: int
    bytes_needed: int
    bytes_free: int
    seconds: float


def estimate(
    recipe: RecipeCard, method: Method, *, num_steps: int, world_size: int, device: torch.device
) -> Estimate:
    """Estimate memory and time from one small step of the real network on this device, which leaves its traces in it.

    Activations are counted as what autograd keeps for a few images, scaled to the batch or a micro-batch of it; time is
    that of the same forward and backward passes, of a forward pass of the teacher and, where micro-batches are embedded
    before the loss, of one more.
    """
    # What is compiled would take its minutes here too.
    memory.prepare(method, recipe.compute.model_copy(update={"compile": False}), device=device)
    probe, schedule = method.student, recipe.schedule
    parameters = sum(p.numel() for p in probe.parameters())
    local = -(-schedule.batch_size // world_size)
    at_once = -(-local // schedule.micro_batches)
    passes = 2 if schedule.micro_batches > 1 and schedule.accumulation == "exact" else 1
    # As many images as keep the probe short: 10 of 224 pixels' side, a whole batch of 28.
    images = max(2, min(local, PROBE_PIXELS // max(view.size for view in recipe.views) ** 2))
    kept_bytes, seconds = 0, 0.0
    # Where the networks see a micro-batch at a time, the views of the others wait beside it.
    waiting = (
        (local - at_once) * sum(view.count * view.size**2 for view in recipe.views) * recipe.trunk.channels
    )
    for view in recipe.views:
        pixels = torch.randn(images, recipe.trunk.channels, view.size, view.size, device=device)
        view_bytes, view_seconds = _probe(probe, pixels, passes=passes, bf16=schedule.precision == "bf16")
        kept_bytes += view_bytes * view.count
        seconds += view_seconds * view.count
    copies = 2 + OPTIMISER_COPIES[recipe.optimiser.name] + (method.teacher is not None)
    # What the loss holds is left out: CARP's is a few chunks of logits, small against the rest.
    needed = parameters * 4 * copies + kept_bytes * at_once // images + waiting * 4
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return Estimate(parameters, needed, free, seconds * local / images * num_steps)


def _probe(probe: Network, pixels: Tensor, *, passes: int, bf16: bool) -> tuple[int, float]:
    """Return the bytes that are kept for a gradient, and the seconds of that gradient and some passes without one."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    def run() -> None:
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=bf16):
            _total(probe(pixels)).backward()
            with torch.no_grad():
                for _ in range(passes):
                    probe(pixels)

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run()
    weights = {p.data_ptr() for p in probe.parameters()}
    start = time.perf_counter()
    run()
    if pixels.is_cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return sum(size for place, size in kept.items() if place not in weights), seconds


def _total(output: Tensor | Sequence[Tensor]) -> Tensor:
    """Make one number of what a student gives, be it an embedding or several."""
    return output.sum() if isinstance(output, Tensor) else torch.stack([part.sum() for part in output]).sum()

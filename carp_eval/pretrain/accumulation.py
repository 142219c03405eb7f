"""Accumulation that is exact: one loss over all embeddings of a batch, though the network sees a part at a time.

A micro-batch has all views of some of the images. All are embedded without gradient, the loss is taken once, and its
gradient in the embeddings is then led back through one micro-batch after another, embedded anew: the activations of one
are kept at a time, for one more forward pass. Where BatchNorm normalises by the batch, it does so by the micro-batch.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn

from carp_eval.errors import PluginError

# What a network makes of images: a row for each, or several tensors of such rows.
Output = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class Cut:
    """How the images of a process are cut.

    Attributes:
        num_images: Images of this process in a step.
        count: Micro-batches of one size that they are cut into.
    """

    num_images: int
    count: int

    def rows(self, num_rows: int) -> list[Int64[Tensor, "_"]]:
        """Return which rows of what a network is given make each micro-batch.

        Args:
            num_rows: Rows. Where they are all images, or all images once for each view and view below view, the views
                of an image stay together. Any others are cut into as few parts as have no more rows than a micro-batch
                has images.
        """
        images, order = self.num_images // self.count, torch.arange(num_rows)
        if num_rows % self.num_images == 0:
            return list(order.view(-1, self.count, images).transpose(0, 1).flatten(1))
        return list(order.tensor_split(-(-num_rows // images)))


@dataclass(frozen=True)
class _Piece:
    """A micro-batch of one call: its rows, the state of chance before it, and what came of it."""

    rows: Int64[Tensor, " row"]
    chance: list[Tensor]
    leaves: list[Tensor]


@dataclass(frozen=True)
class _Call:
    """What the network was called with, and its micro-batches."""

    images: Shaped[Tensor, "row *axes"]
    autocast: torch.autocast
    pieces: list[_Piece]


class Student(nn.Module):
    """Stands for a network in the loss of one step: embeds in micro-batches, and takes their gradients afterwards."""

    def __init__(self, network: nn.Module, cut: Cut) -> None:
        """Make ready for a loss.

        Args:
            network: The student, or what wraps it for several processes.
            cut: How images are cut.
        """
        super().__init__()
        self.network = network
        self._cut = cut
        self._calls: list[_Call] = []

    def forward(self, images: Shaped[Tensor, "row *axes"]) -> Output:
        """Embed images. What comes out takes a gradient; what led to it is not kept.

        Raises:
            PluginError: If the network does not give a row for each image.
        """
        if not torch.is_grad_enabled():
            return _by_pieces(self.network, images, self._cut)
        kind = images.device.type
        autocast = torch.autocast(
            kind, torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind)
        )
        call = _Call(images, autocast, [])
        outputs: list[Output] = []
        for rows in self._cut.rows(len(images)):
            chance = _chance(images.device)
            with torch.no_grad():
                output = self.network(images[rows])
            leaves = [part.detach().requires_grad_() for part in _parts(output, num_rows=len(rows))]
            call.pieces.append(_Piece(rows, chance, leaves))
            outputs.append(leaves[0] if isinstance(output, Tensor) else leaves)
        self._calls.append(call)
        return _join(outputs, [piece.rows for piece in call.pieces])

    def backward(
        self, total: Float[Tensor, ""], *, unsynchronised: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """Add the gradient of a loss to that of the network's parameters.

        Args:
            total: The loss, of what the calls gave and, maybe, of parameters that have no part in a forward pass, such
                as prototypes.
            unsynchronised: Makes a context in which processes do not average gradients; with the last micro-batch they
                do.
        """
        parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        leaves = [leaf for call in self._calls for piece in call.pieces for leaf in piece.leaves]
        found = cast(
            tuple[Tensor | None, ...],
            torch.autograd.grad(total, [*leaves, *parameters], allow_unused=True),
        )
        for leaf, gradient in zip(leaves, found, strict=False):
            leaf.grad = gradient
        direct = [
            (parameter, gradient)
            for parameter, gradient in zip(parameters, found[len(leaves) :], strict=True)
            if gradient is not None
        ]
        count = max(len(call.pieces) for call in self._calls)
        with _as_they_are(self.network), torch.random.fork_rng(devices=_cuda_devices(self._calls[0].images)):
            for number in range(count):
                last = number == count - 1
                with nullcontext() if last else unsynchronised():
                    # Calls of fewer pieces come last: then the last backward pass meets all that the loss did.
                    again = [
                        pair
                        for call in self._calls
                        if number >= count - len(call.pieces)
                        for pair in self._again(call, call.pieces[number - count])
                    ]
                    pairs = [*again, *direct] if last else again
                    # With the last, these too pass where gradients are averaged, each parameter once.
                    torch.autograd.backward(
                        [output for output, _ in pairs], [gradient for _, gradient in pairs]
                    )
        self._calls.clear()

    def _again(self, call: _Call, piece: _Piece) -> list[tuple[Tensor, Tensor]]:
        """Embed a micro-batch as before, now with a gradient; return what the loss depends on, with its gradient."""
        _take_chance(piece.chance, call.images.device)
        with call.autocast:
            outputs = _parts(self.network(call.images[piece.rows]), num_rows=len(piece.rows))
        return [
            (output, leaf.grad)
            for output, leaf in zip(outputs, piece.leaves, strict=True)
            if leaf.grad is not None
        ]


@contextmanager
def in_pieces(network: nn.Module | None, cut: Cut) -> Generator[None]:
    """Let a network that takes no gradient embed in micro-batches too, whoever calls it.

    Args:
        network: The teacher; None in a method without.
        cut: How images are cut.
    """
    if network is None or cut.count == 1:
        yield
        return
    whole = network.forward

    def forward(images: Shaped[Tensor, "row *axes"]) -> Output:
        return _by_pieces(whole, images, cut)

    network.forward = forward
    try:
        yield
    finally:
        del network.forward


def _by_pieces(network: Callable[[Tensor], Output], images: Shaped[Tensor, "row *axes"], cut: Cut) -> Output:
    pieces = cut.rows(len(images))
    outputs = [network(images[rows]) for rows in pieces]
    for output, rows in zip(outputs, pieces, strict=True):
        _parts(output, num_rows=len(rows))
    return _join(outputs, pieces)


def _parts(output: Output, *, num_rows: int) -> list[Tensor]:
    """Return the tensors that a network gave, each with a row for each image."""
    parts = [output] if isinstance(output, Tensor) else list(output)
    for part in parts:
        if len(part) != num_rows:
            raise PluginError(
                f"micro-batches need networks that give a row for each image, or a tuple of such tensors; of "
                f"{num_rows} images came a tensor of shape {list(part.shape)}: set schedule.micro_batches = 1"
            )
    return parts


def _join(outputs: Sequence[Output], rows: Sequence[Int64[Tensor, "_"]]) -> Output:
    """Put rows back in the order they came in."""
    first, order = outputs[0], torch.cat(list(rows)).argsort()
    if isinstance(first, Tensor):
        return torch.cat([part for part in outputs if isinstance(part, Tensor)])[order]
    return tuple(torch.cat(parts)[order] for parts in zip(*outputs, strict=True))


@contextmanager
def _as_they_are(network: nn.Module) -> Generator[None]:
    """Put a network's buffers back as they are: in the end, BatchNorm's statistics have moved once with each image."""
    buffers = list(network.buffers())
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)


def _cuda_devices(images: Tensor) -> list[torch.device]:
    return [images.device] if images.is_cuda else []


def _chance(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _take_chance(states: Sequence[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)

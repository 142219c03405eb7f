"""The CARP loss: equation 3 of the paper, streamed over blocks of prototypes.

With s and t the student's and the teacher's softmax over the prototypes of one block, the loss is the mean
over images and blocks of `-log <s^1, t^2> - log <s^2, t^1>`, plus a weight times the mean over blocks of
`ln N_B - H(p)`, where p averages all rows of s and t. It is the paper's but for the constant `ln N_B`, which
makes the second term a divergence from even use: 0 at best.

Given all embeddings, a block's terms and gradients need that block's logits alone. So a few blocks are taken
at a time, their logits used for the value and for every gradient, and let go: beside the prototypes and
their gradient, memory does not grow with their number.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from carp_eval import distributed
from carp_eval.pretrain import partition as partitions
from carp_eval.pretrain.carp_terms import Weights, block_terms
from carp_eval.pretrain.chunks import ChunkedPrototypes, Workspace, zeros_like

# What a lane of chunks gives: each chunk's sums, and its part of the gradient in the embeddings.
Lane = tuple[list[Tensor], Tensor | None]

# Logits of student and teacher in one chunk: a CPU's cache holds as many, a GPU is kept busy by them.
CPU_CHUNK_LOGITS = 2**19
GPU_CHUNK_LOGITS = 2**25


class CarpLoss(NamedTuple):
    """The loss and its parts, over all processes. Only `total` carries a gradient.

    Attributes:
        total: `consistency` plus the entropy weight times `kl`.
        consistency: How far the views of an image are from the same assignment; at random initialisation
            about 2 ln N_B in the convention `sum`, ln N_B in `mean`.
        kl: Mean over blocks of `ln N_B - H(p)`, p the block's mean assignment: 0 where all prototypes
            are used evenly, ln N_B where each block has collapsed to one.
        confidence: Mean over student views and blocks of the largest assignment: from 1 / N_B, where views
            are assigned to nothing, to 1.
    """

    total: Float[Tensor, ""]
    consistency: Float[Tensor, ""]
    kl: Float[Tensor, ""]
    confidence: Float[Tensor, ""]


def carp_loss(
    student: Float[Tensor, "view image dim"],
    teacher: Float[Tensor, "target image dim"],
    prototypes: Float[Tensor, "prototype dim"],
    teacher_prototypes: Float[Tensor, "prototype dim"],
    partition: Int64[Tensor, "block member"],
    *,
    entropy_weight: float = 1.0,
    convention: Literal["sum", "mean"] = "sum",
    unit_norm: bool = True,
    chunk_blocks: int | None = None,
) -> CarpLoss:
    """Take the CARP loss of a batch.

    Each student view i meets each teacher view j of another crop, i != j. With several processes, each gives
    its own images and the same prototypes and partition; all get the loss of the whole batch, and gradients
    whose average over processes, as DistributedDataParallel takes it, is that of the whole batch.

    Args:
        student: Embeddings of all views, not normalised; half precision is taken to float32.
        teacher: The teacher's embeddings of the first views, in the same order.
        prototypes: The student's prototypes.
        teacher_prototypes: The teacher's prototypes; the same tensor where they are shared.
        partition: The members of each block; a prototype is in one block or in none.
        entropy_weight: Weight of the term that keeps the use of prototypes even.
        convention: `sum` adds the two directions, as equation 3 prints it (with more than two views: twice
            the mean over pairs). `mean` averages over pairs, as the authors' code does: half of it.
        unit_norm: Whether each prototype is divided by its length; the gradient goes through the division.
        chunk_blocks: Blocks taken at a time, the same in all processes. Only time and memory depend on it;
            left out, as many as suit the device.

    Raises:
        ValueError: If shapes do not fit together, if the partition names a prototype twice or one that is
            not there, or if a prototype to be divided by its length has none.
    """
    _check_embeddings(student, teacher, prototypes, teacher_prototypes)
    partitions.check(partition, num_prototypes=len(prototypes))
    if convention not in ("sum", "mean"):
        raise ValueError(f"the convention must be sum or mean, got {convention!r}")
    if chunk_blocks is not None and chunk_blocks < 1:
        raise ValueError(f"at least one block is taken at a time, got chunk_blocks = {chunk_blocks}")
    dtype = torch.promote_types(student.dtype, torch.float32)
    setting = _Setting(
        directions=2 if convention == "sum" else 1,
        entropy_weight=entropy_weight,
        unit_norm=unit_norm,
        chunk_blocks=chunk_blocks,
        student_gradient=torch.is_grad_enabled() and student.requires_grad,
        prototype_gradient=torch.is_grad_enabled() and prototypes.requires_grad,
    )
    parts = _Streamed.apply(
        student.to(dtype),
        prototypes,
        teacher.detach().to(dtype),
        teacher_prototypes.detach(),
        partition.to(prototypes.device, non_blocking=True),
        setting,
    )
    return CarpLoss(*parts)


@dataclass(frozen=True)
class _Setting:
    directions: int
    entropy_weight: float
    unit_norm: bool
    chunk_blocks: int | None
    student_gradient: bool
    prototype_gradient: bool


class _Streamed(torch.autograd.Function):
    """Value and gradients in one pass; backward only scales what forward found."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        parts, ctx.gradients = _stream(*inputs)
        ctx.mark_non_differentiable(*parts[1:])
        return parts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        if ctx.gradients is None:
            raise RuntimeError(
                "the CARP loss gives its gradients once: take the loss again to have them again"
            )
        gradients, ctx.gradients = ctx.gradients, None
        factor = outer[0]
        # On a CPU it is free to look at the factor, and 1 spares a pass over the largest tensor there is.
        if factor.device.type != "cpu" or factor.item() != 1:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(factor)
        return (*gradients, None, None, None, None)


def _stream(
    student: Float[Tensor, "view image dim"],
    prototypes: Float[Tensor, "prototype dim"],
    teacher: Float[Tensor, "target image dim"],
    teacher_prototypes: Float[Tensor, "prototype dim"],
    partition: Int64[Tensor, "block member"],
    setting: _Setting,
) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, Tensor | None]]:
    """Return the parts of the loss, and the gradients of its total in student and prototypes."""
    num_views, num_images, num_targets = len(student), _all_images(student), len(teacher)
    rows = (num_views + num_targets) * num_images
    pairs = (num_views - 1) * num_targets * num_images * len(partition)
    # Gradients will be averaged over processes, where these terms are to be added: hence the factor.
    weights = Weights(
        rows=rows,
        pair=distributed.world_size() * setting.directions / pairs,
        row=distributed.world_size() * setting.entropy_weight / (rows * len(partition)),
    )
    student_gradient = torch.zeros_like(student) if setting.student_gradient else None
    prototype_gradient = zeros_like(prototypes) if setting.prototype_gradient else None
    chunks = partition.split(setting.chunk_blocks or _fitting_blocks(partition, rows))
    lane = partial(
        _run_lane, student, prototypes, teacher, teacher_prototypes, setting, weights, prototype_gradient
    )
    sums: list[Tensor] = []
    for lane_sums, lane_gradient in _side_by_side(lane, chunks):
        sums += lane_sums
        if student_gradient is not None and lane_gradient is not None:
            student_gradient += lane_gradient.view_as(student)
    # Here at once: a running sum over thousands of chunks would lose digits.
    total = torch.stack(sums).sum(0)
    distributed.sum_in_place(total[:2])
    consistency = total[0] * (setting.directions / pairs)
    confidence = total[1] / (num_views * num_images * len(partition))
    kl = total[2] / len(partition)
    loss = consistency + setting.entropy_weight * kl
    return (loss, consistency, kl, confidence), (student_gradient, prototype_gradient)


def _side_by_side(lane: Callable[[Sequence[Tensor]], Lane], chunks: Sequence[Tensor]) -> list[Lane]:
    """Run chunks in as many lanes as the processor has threads for, each lane on one.

    A chunk's operations are too small to keep several threads busy each: on two, one step took 240 ms with
    every operation on both, and takes 175 with half of the chunks on each. On a GPU, and where chunks meet
    those of other processes, there is one lane.
    """
    alone = chunks[0].device.type == "cpu" and distributed.world_size() == 1
    lanes = min(torch.get_num_threads(), len(chunks)) if alone else 1
    if lanes == 1:
        return [lane(chunks)]
    with ThreadPoolExecutor(lanes, initializer=partial(torch.set_num_threads, 1)) as pool:
        return list(pool.map(lane, [chunks[number::lanes] for number in range(lanes)]))


@torch.no_grad()
def _run_lane(
    student: Float[Tensor, "view image dim"],
    prototypes: Float[Tensor, "prototype dim"],
    teacher: Float[Tensor, "target image dim"],
    teacher_prototypes: Float[Tensor, "prototype dim"],
    setting: _Setting,
    weights: Weights,
    prototype_gradient: Tensor | None,
    chunks: Sequence[Int64[Tensor, "_ member"]],
) -> Lane:
    """Take chunks one after the other; rows of the prototypes' gradient belong to one chunk each."""
    num_views, num_targets = len(student), len(teacher)
    room = Workspace(student)
    chunked = partial(ChunkedPrototypes, unit_norm=setting.unit_norm, room=room)
    own = chunked(prototypes, owner="student", gradient=prototype_gradient)
    shared = _is_same(prototypes, teacher_prototypes)
    of_teacher = own if shared else chunked(teacher_prototypes, owner="teacher", gradient=None)
    flat, flat_teacher = student.flatten(0, 1), teacher.flatten(0, 1)
    student_gradient = torch.zeros_like(flat) if setting.student_gradient else None
    sums: list[Tensor] = []
    for blocks in chunks:
        members = blocks.flatten()
        taken = own.take(members)
        taken_by_teacher = taken if shared else of_teacher.take(members)
        # Autocast leaves products alone that write to what is there: these stay in single precision.
        logits = torch.mm(flat, taken.T, out=room("logits", (len(flat), len(members))))
        target_logits = torch.mm(
            flat_teacher, taken_by_teacher.T, out=room("target_logits", (len(flat_teacher), len(members)))
        )
        chunk_sums, gradient = block_terms(
            logits.view(num_views, -1, *blocks.shape),
            target_logits.view(num_targets, -1, *blocks.shape),
            weights,
            room=room,
            with_gradient=setting.student_gradient or setting.prototype_gradient,
        )
        sums.append(chunk_sums)
        if gradient is not None:
            by_row = gradient.view_as(logits)
            if student_gradient is not None:
                student_gradient.addmm_(by_row, taken)
            if own.gradient is not None:
                own.add_gradient(by_row, flat)
    own.check_lengths()
    of_teacher.check_lengths()
    return sums, student_gradient


def _all_images(student: Float[Tensor, "view image dim"]) -> int:
    images = student.shape[1]
    if distributed.world_size() == 1:
        return images
    return int(distributed.sum_in_place(torch.tensor(images, device=student.device)).item())


def _fitting_blocks(partition: Int64[Tensor, "block member"], rows: int) -> int:
    limit = CPU_CHUNK_LOGITS if partition.device.type == "cpu" else GPU_CHUNK_LOGITS
    # `rows` counts all processes', so that all take the same chunks whatever each holds.
    return max(1, limit * distributed.world_size() // (rows * partition.shape[1]))


def _is_same(one: Tensor, other: Tensor) -> bool:
    def place(tensor: Tensor) -> tuple[Any, ...]:
        return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device

    return place(one) == place(other)


def _check_embeddings(
    student: Tensor, teacher: Tensor, prototypes: Tensor, teacher_prototypes: Tensor
) -> None:
    if student.ndim != 3 or teacher.ndim != 3 or prototypes.ndim != 2:
        raise ValueError(
            "expected embeddings [view, image, dim] and prototypes [prototype, dim], got "
            f"{list(student.shape)}, {list(teacher.shape)} and {list(prototypes.shape)}"
        )
    if student.shape[1:] != teacher.shape[1:]:
        raise ValueError(
            "student and teacher must embed the same images in as many dimensions, got [view, image, dim] "
            f"{list(student.shape)} and {list(teacher.shape)}"
        )
    if not 1 <= len(teacher) <= len(student) or len(student) < 2 or student.shape[1] < 1:
        raise ValueError(
            "expected at least one image in at least two views, the first one or more of them for the teacher, "
            f"got {list(student.shape)} for the student and {list(teacher.shape)} for the teacher"
        )
    if prototypes.shape[1] != student.shape[2] or teacher_prototypes.shape != prototypes.shape:
        raise ValueError(
            f"expected prototypes of the embeddings' {student.shape[2]} dimensions, as many for the teacher "
            f"as for the student, got {list(prototypes.shape)} and {list(teacher_prototypes.shape)}"
        )

"""The gradient of a step: of its batch at once, or accumulated over micro-batches."""

import math
from contextlib import nullcontext
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from carp_eval import distributed
from carp_eval.cards.recipe import RecipeCard
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.errors import TrainingError, UsageError
from carp_eval.pretrain import accumulation
from carp_eval.pretrain.method import Losses, Method, Step


def cut_of(recipe: RecipeCard, network: nn.Module, *, world_size: int) -> accumulation.Cut:
    """Return how each process's share of a batch is cut into micro-batches.

    Args:
        recipe: What is trained.
        network: The student, as it will be called.
        world_size: Processes.

    Raises:
        UsageError: If that leaves a rest, or one image for BatchNorm to normalise by.
    """
    images, count = recipe.schedule.batch_size // world_size, recipe.schedule.micro_batches
    if images % count:
        divisors = [number for number in range(1, images + 1) if images % number == 0]
        near = min(divisors, key=lambda number: abs(number - count))
        raise UsageError(
            f"{images} images in a step of one process cannot be cut into {count} micro-batches of one size: set "
            f"schedule.micro_batches to what divides {images}, such as {near}"
        )
    # SyncBatchNorm, which is none of these, normalises by the images of all processes.
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    if count > 1 and images == count and any(isinstance(part, norms) for part in network.modules()):
        raise UsageError(
            f"{images} images in {count} micro-batches leave one image in each, and BatchNorm needs several to "
            "normalise by: lower schedule.micro_batches"
        )
    return accumulation.Cut(images, count)


class Gradients:
    """Takes the loss of each step, and its gradient, as the recipe's schedule says."""

    def __init__(self, method: Method, accelerator: Accelerator, cut: accumulation.Cut) -> None:
        self._method, self._accelerator, self.cut = method, accelerator, cut

    def take(self, batch: TrainingBatch, *, student: nn.Module, step: Step) -> Losses:
        """Add the gradient of a step's loss to that of the student's parameters, averaged over processes.

        Args:
            batch: Its views, on the device.
            student: The student, or what wraps it for several processes.
            step: Where the training stands.

        Returns:
            The losses, without gradient.

        Raises:
            TrainingError: If a loss is not finite.
        """
        if self.cut.count == 1:
            losses = self._loss(batch, student=student, step=step)
            _check_finite(losses, step)
            self._accelerator.backward(losses.total)
            return _plain(losses)
        if self._method.recipe.schedule.accumulation == "exact":
            return self._exactly(batch, student=student, step=step)
        return self._one_by_one(batch, student=student, step=step)

    def _exactly(self, batch: TrainingBatch, *, student: nn.Module, step: Step) -> Losses:
        pieces = accumulation.Student(student, self.cut)
        with accumulation.in_pieces(self._method.teacher, self.cut):
            losses = self._loss(batch, student=pieces, step=step)
        _check_finite(losses, step)
        pieces.backward(losses.total, unsynchronised=lambda: self._accelerator.no_sync(student))
        return _plain(losses)

    def _one_by_one(self, batch: TrainingBatch, *, student: nn.Module, step: Step) -> Losses:
        """Take the mean of the micro-batches' losses: what each one draws, assigns or averages is its own."""
        count, taken = self.cut.count, list[Losses]()
        for number, rows in enumerate(self.cut.rows(self.cut.num_images)):
            part = TrainingBatch([view[rows] for view in batch.views], batch.index[rows])
            # Numbered through, so that each draws its own and keeps its features in a place of their own.
            place = replace(step, number=step.number * count + number)
            with nullcontext() if number == count - 1 else self._accelerator.no_sync(student):
                losses = self._loss(part, student=student, step=place)
                _check_finite(losses, step)
                self._accelerator.backward(losses.total / count)
            taken.append(_plain(losses))
        shown: dict[str, Tensor | float] = {
            name: sum(losses.shown[name] for losses in taken) / count for name in taken[0].shown
        }
        return Losses(torch.stack([losses.total for losses in taken]).mean(), shown)

    def _loss(self, batch: TrainingBatch, *, student: nn.Module, step: Step) -> Losses:
        bf16 = self._method.recipe.schedule.precision == "bf16"
        with torch.autocast(self._accelerator.device.type, torch.bfloat16, enabled=bf16):
            return self._method.loss(batch, student=student, step=step)


def _check_finite(losses: Losses, step: Step) -> None:
    total = losses.total.item()
    error = None
    if not math.isfinite(total):
        error = TrainingError(
            f"the loss is {total} at step {step.number} (epoch {step.epoch + 1}): no weight was moved, and the last "
            "checkpoint is good. Train anew with a lower optimiser.lr, a longer optimiser.warmup_epochs, or in "
            "float32; --init RUN starts from the trunk of that checkpoint"
        )
    # Of one process alone, it would leave the others waiting for its gradient.
    if distributed.any_process(error is not None):
        distributed.share_error(error)


def _plain(losses: Losses) -> Losses:
    return replace(losses, total=losses.total.detach())

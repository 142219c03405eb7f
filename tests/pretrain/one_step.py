"""A method of a recipe for the digits, cut down, and one batch for it."""

import torch

from carp_eval.cards import loading
from carp_eval.data.training_batches import TrainingBatch
from carp_eval.pretrain import methods
from carp_eval.pretrain.method import Step
from tests.pretrain.test_compared_methods import OWN, TINY

FIRST = Step(0, 0, 0.0)


def method_of(name, **changes):
    """Build a method; a double underscore in a name stands for a dot."""
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    recipe = loading.recipe(f"digits-{name}", TINY | OWN.get(name, {}) | changes)
    return methods.build(recipe, device=torch.device("cpu"))


def batch_of(num_images, *sizes, seed=0):
    """Return random views of those sizes."""
    chance = torch.Generator().manual_seed(seed)
    views = [torch.randn(num_images, 1, size, size, generator=chance) for size in sizes]
    return TrainingBatch(views, torch.arange(num_images))


def take_step(method, batch, *, step=FIRST, rate=0.1):
    """Take a step of plain descent, in the loop's order; return the losses."""
    losses = method.loss(batch, student=method.student, step=step)
    losses.total.backward()
    method.before_update(step)
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter -= rate * parameter.grad
            parameter.grad = None
    method.after_update(step)
    return losses

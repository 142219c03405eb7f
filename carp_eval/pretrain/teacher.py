"""The slow network: an exponential moving average of the fast one (CARP, section 3)."""

import copy
from typing import TypeVar

import torch
from torch import nn

Student = TypeVar("Student", bound=nn.Module)


def copy_of(student: Student) -> Student:
    """Return a teacher that starts as the student and never takes a gradient.

    It stays in training mode: its BatchNorm layers normalise by its own batch and keep their own
    running statistics, as in the authors' code.
    """
    return copy.deepcopy(student).requires_grad_(requires_grad=False)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, *, momentum: float) -> None:
    """Move the teacher's parameters to `momentum * teacher + (1 - momentum) * student`.

    Buffers are left alone. Section 3 averages in the weights the step's loss was taken with, so this
    comes before the optimiser's step; with momentum 0 the teacher is then the student of the last step.
    """
    for slow, fast in zip(teacher.parameters(), student.parameters(), strict=True):
        slow.lerp_(fast, 1 - momentum)

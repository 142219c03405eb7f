"""A step of CARP, views in and loss out, against loops over images, blocks and pairs of views in double precision."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from carp_eval.data.training_batches import TrainingBatch
from carp_eval.pretrain.carp import Carp
from carp_eval.pretrain.method import Step
from tests.recipes import tiny

GREY = "jitter = [0.4, 0.4, 0.0, 0.0], grey = 0.0"
GLOBAL = f"{{ size = 28, count = 2, {GREY} }}"
LOCAL = f"{{ size = 16, count = 3, to_teacher = false, {GREY} }}"
MULTI_CROP, TWO_VIEWS = f"[{GLOBAL}, {LOCAL}]", f"[{GLOBAL}]"
NUM_PROTOTYPES, BLOCK, IMAGES = 12, 4, 5


def method_of(views, **changes):
    """Build a method whose teacher is not its student; sequential blocks need no draw to be known here."""
    recipe = tiny(
        views=views,
        prototypes__count=str(NUM_PROTOTYPES),
        partition__block_size=str(BLOCK),
        partition__kind="constant",
        **changes,
    )
    method = Carp(recipe, device=torch.device("cpu"))
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        # Fresh networks assign images to nothing in particular, where a wrong divergence is near the right one.
        method.student.head[-1].weight *= 20
        if method.teacher is not None:
            for name, parameter in method.teacher.named_parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=chance)
                parameter *= 5 if name == "head.6.weight" else 1
    return method


def batch_of(num_views):
    chance = torch.Generator().manual_seed(2)
    sizes = [28, 28, 16, 16, 16][:num_views]
    views = [torch.randn(IMAGES, 1, size, size, generator=chance) for size in sizes]
    return TrainingBatch(views, torch.arange(IMAGES))


def assignments(network, views):
    """Return each view's softmax over each block: a list of views, images, blocks."""
    # Views of one size share BatchNorm's statistics, as in the authors' code.
    embedded = [*network(torch.cat(views[:2])).split(IMAGES)]
    if len(views) > 2:
        embedded += network(torch.cat(views[2:])).split(IMAGES)
    prototypes = network.prototypes.weight
    blocks = [prototypes[start : start + BLOCK] for start in range(0, NUM_PROTOTYPES, BLOCK)]
    return [
        [[torch.softmax(F.normalize(block) @ row, dim=0) for block in blocks] for row in view]
        for view in embedded
    ]


def by_loops(method, batch):
    """Return consistency (twice the mean over pairs), divergence, and the student they can be derived by."""
    student = copy.deepcopy(method.student).double()
    views = [view.double() for view in batch.views]
    s = assignments(student, views)
    if method.teacher is None:
        t = [[[block.detach() for block in row] for row in view] for view in s[:2]]
    else:
        with torch.no_grad():
            t = assignments(copy.deepcopy(method.teacher).double(), views[:2])
    blocks = range(NUM_PROTOTYPES // BLOCK)
    terms = []
    for i in range(len(s)):
        for j in range(2):
            if i != j:
                for n in range(IMAGES):
                    for b in blocks:
                        terms.append(-torch.log((s[i][n][b] * t[j][n][b]).sum()))
    assert len(terms) == 2 * (len(views) - 1) * IMAGES * len(blocks)
    consistency = 2 * sum(terms) / len(terms)
    divergence = 0.0
    for b in blocks:
        rows = [view[n][b] for view in (*s, *t) for n in range(IMAGES)]
        mean = sum(rows) / len(rows)
        divergence = divergence + (math.log(BLOCK) + sum(p * torch.log(p) for p in mean)) / len(blocks)
    return consistency, divergence, student


@pytest.mark.parametrize("views", [MULTI_CROP, TWO_VIEWS])
@pytest.mark.parametrize("kind", ["ema", "none"])
@pytest.mark.parametrize(("convention", "share", "weight"), [("sum", 1.0, 1.0), ("mean", 0.5, 0.7)])
def test_a_steps_loss_and_gradient_are_those_of_the_loops(views, kind, convention, share, weight):
    method = method_of(
        views, teacher__kind=kind, loss__convention=convention, loss__entropy_weight=str(weight)
    )
    batch = batch_of(5 if views == MULTI_CROP else 2)
    consistency, divergence, student = by_loops(method, batch)
    wanted = share * consistency + weight * divergence
    losses = method.loss(batch, student=method.student, step=Step(0, 0, 0.0))
    assert losses.total.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert float(losses.shown["consistency"]) == pytest.approx(share * consistency.item(), rel=1e-5)
    assert float(losses.shown["kl"]) == pytest.approx(divergence.item(), rel=1e-4)
    losses.total.backward()
    wanted.backward()
    for part in ("trunk", "head", "prototypes"):
        ours, theirs = (
            torch.cat(
                [parameter.grad.double().flatten() for parameter in getattr(network, part).parameters()]
            )
            for network in (method.student, student)
        )
        assert (ours - theirs).norm() < 1e-4 * theirs.norm(), part


def test_two_crops_are_equation_3():
    method = method_of(TWO_VIEWS)
    batch = batch_of(2)
    with torch.no_grad():
        s = assignments(method.student, batch.views)
        t = assignments(method.teacher, batch.views)
    total = 0.0
    for n in range(IMAGES):
        for b in range(NUM_PROTOTYPES // BLOCK):
            total -= math.log(float(s[0][n][b] @ t[1][n][b])) + math.log(float(s[1][n][b] @ t[0][n][b]))
    shown = method_of(TWO_VIEWS).loss(batch, student=method.student, step=Step(0, 0, 0.0)).shown
    assert float(shown["consistency"]) == pytest.approx(total / IMAGES / (NUM_PROTOTYPES // BLOCK), rel=1e-5)


def test_the_teacher_sees_the_large_crops_alone():
    method = method_of(MULTI_CROP)
    seen = []
    method.teacher.register_forward_hook(lambda _, images, __: seen.append(tuple(images[0].shape)))
    method.loss(batch_of(5), student=method.student, step=Step(0, 0, 0.0))
    assert seen == [(2 * IMAGES, 1, 28, 28)]

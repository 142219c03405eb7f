import itertools
import math

import pytest
import torch
from torch import nn

from carp_eval import optim
from carp_eval.cards.recipe import OptimiserCard


def test_lars_moves_as_its_equations_say():
    torch.manual_seed(0)
    weight, bias = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3))
    module = nn.ParameterList([weight, bias])
    card = OptimiserCard(name="lars", lr=0.5, weight_decay=0.1, momentum=0.9, trust=0.01)
    optimiser = optim.build(card, module)
    w, b = weight.detach().double().tolist(), bias.detach().double().tolist()
    velocity_w, velocity_b = [[0.0] * 4 for _ in range(3)], [0.0] * 3
    for step in range(3):
        torch.manual_seed(step + 1)
        weight.grad, bias.grad = torch.randn(3, 4), torch.randn(3)
        g, h = weight.grad.double().tolist(), bias.grad.double().tolist()
        decayed = [[g[i][j] + 0.1 * w[i][j] for j in range(4)] for i in range(3)]
        norm_w = math.sqrt(sum(x * x for row in w for x in row))
        norm_d = math.sqrt(sum(x * x for row in decayed for x in row))
        for i in range(3):
            for j in range(4):
                velocity_w[i][j] = 0.9 * velocity_w[i][j] + 0.01 * norm_w / norm_d * decayed[i][j]
                w[i][j] -= 0.5 * velocity_w[i][j]
            velocity_b[i] = 0.9 * velocity_b[i] + h[i]
            b[i] -= 0.5 * velocity_b[i]
        optimiser.step()
    torch.testing.assert_close(
        weight.detach().double(), torch.tensor(w, dtype=torch.float64), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        bias.detach().double(), torch.tensor(b, dtype=torch.float64), rtol=1e-5, atol=1e-6
    )


def test_lars_leaves_a_zero_weight_and_a_zero_gradient_finite():
    weight = nn.Parameter(torch.zeros(2, 2))
    optimiser = optim.build(OptimiserCard(name="lars", lr=1.0), nn.ParameterList([weight]))
    weight.grad = torch.zeros(2, 2)
    optimiser.step()
    weight.grad = torch.ones(2, 2)
    optimiser.step()
    assert torch.equal(weight.detach(), -torch.ones(2, 2))


@pytest.mark.parametrize("name", ["lars", "sgd", "adamw"])
def test_only_matrices_decay_and_frozen_parameters_are_left_out(name):
    module = nn.Sequential(
        nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2).requires_grad_(requires_grad=False)
    )
    optimiser = optim.build(OptimiserCard(name=name, lr=0.1, weight_decay=0.5), module)
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
    assert decay == {id(p): 0.5 if p.ndim > 1 else 0.0 for p in module.parameters() if p.requires_grad}


def test_the_learning_rate_rises_then_falls_along_half_a_cosine():
    card = OptimiserCard(name="sgd", lr=0.6, final_lr=0.06)
    rates = [optim.learning_rate(card, step=step, num_steps=110, warmup_steps=10) for step in range(110)]
    assert rates[:10] == pytest.approx([0.06 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(0.6)
    assert rates[60] == pytest.approx(0.33)
    assert rates[109] == pytest.approx(0.06, abs=1e-3)
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[10:]))


@pytest.mark.parametrize(("shape", "middle"), [("constant", 2.0), ("linear", 3.0), ("cosine", 3.0)])
def test_schedules_start_and_end_where_they_should(shape, middle):
    assert optim.interpolate(shape, 2.0, 4.0, progress=0.0) == 2.0
    assert optim.interpolate(shape, 2.0, 4.0, progress=0.5) == pytest.approx(middle)
    assert optim.interpolate(shape, 2.0, 4.0, progress=1.0) == (2.0 if shape == "constant" else 4.0)
    assert optim.interpolate(shape, 2.0, None, progress=0.7) == 2.0

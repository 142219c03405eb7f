import math

import pytest
import torch
from torch import nn

from carp_eval.evaluation import probe_training
from tests.evaluation.training_scene import card


@pytest.mark.parametrize(
    ("name", "trunk", "head"),
    [
        ("semisup@swav", 0.02, 5.0),
        ("semisup@carp-paper", 0.002, 0.5),
    ],
)
def test_rates_of_few_labels_fall_to_a_fifth_after_twelve_and_sixteen_epochs(name, trunk, head):
    protocol = card(name)
    rates = protocol.rates_of_amount()
    assert protocol.epochs == 20
    for start, base in ((trunk, rates.trunk), (head, rates.head)):
        assert start == base
        wanted = [start] * 12 + [start / 5] * 4 + [start / 25] * 4
        found = [probe_training.learning_rate(protocol, base, epoch=epoch) for epoch in range(20)]
        assert found == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("variant", "epoch", "wanted"),
    [
        ("swav", 0, 0.3),
        ("swav", 50, 0.15),
        ("swav", 99, 0.15 * (1 + math.cos(math.pi * 0.99))),
        ("dino", 0, 0.3),
        ("carp-code", 0, 1.0),
        ("simsiam", 0, 1.6),
        ("simsiam", 45, 0.8),
        ("mocov2", 59, 30),
        ("mocov2", 60, 3),
        ("mocov2", 80, 0.3),
        ("places", 27, 1e-5),
        ("inat", 41, 1e-3),
        ("inat", 42, 1e-4),
        ("vicreg", 0, 0.02),
        ("carl-transfer", 40, 0.3),
    ],
)
def test_rates_of_linear_heads_are_those_of_their_sources(variant, epoch, wanted):
    protocol = card(f"linear@{variant}")
    found = probe_training.learning_rate(protocol, protocol.learning_rate, epoch=epoch)
    assert found == pytest.approx(wanted)


def test_a_warm_up_rises_in_equal_steps_before_the_schedule():
    protocol = card("linear@swav", warmup_epochs=4, epochs=8)
    found = [probe_training.learning_rate(protocol, 1.0, epoch=epoch) for epoch in range(8)]
    assert found == pytest.approx(
        [0.25, 0.5, 0.75, 1.0] + [(1 + math.cos(math.pi * part)) / 2 for part in (0, 0.25, 0.5, 0.75)]
    )


@pytest.mark.parametrize("start", ["normal", "uniform", "zeros"])
def test_heads_start_as_the_card_says_and_by_the_seed_alone(start):
    protocol = card("linear@swav", head_init=start)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    head = probe_training.build_head(protocol, 400, 100, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    again = probe_training.build_head(protocol, 400, 100, seed=1)
    assert torch.equal(head.weight, again.weight)
    weight = head.weight.detach()
    wanted = {"normal": 0.01, "uniform": 1 / 20 / math.sqrt(3), "zeros": 0.0}[start]
    assert weight.std().item() == pytest.approx(wanted, rel=0.03)
    assert (head.bias.abs().max() > 0) == (start == "uniform")
    assert weight.abs().max() <= {"normal": 0.06, "uniform": 1 / 20, "zeros": 0.0}[start]


def test_sgd_decays_everything_and_lars_only_weights_unless_told():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    parts = [(module, 0.5)]
    sgd = probe_training.build_optimiser(card("linear@swav"), parts).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in sgd] == [(4, 1e-6)]
    plain = probe_training.build_optimiser(card("linear@carp-code", weight_decay=0.1), parts).param_groups
    assert [(len(g["params"]), g["weight_decay"], g["adapt"]) for g in plain] == [
        (1, 0.1, True),
        (3, 0.0, False),
    ]
    whole = probe_training.build_optimiser(card("linear@simsiam"), parts).param_groups
    assert [(len(group["params"]), group["adapt"]) for group in whole] == [(4, True)]

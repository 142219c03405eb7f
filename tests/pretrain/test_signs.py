import math

import pytest
import torch

from carp_eval.pretrain import signs
from tests.recipes import tiny


def test_prototypes_used_counts_who_is_nearest_to_someone():
    prototypes = torch.tensor([[1.0, 0.0], [0.0, 9.0], [-1.0, 0.0], [0.0, -1.0]])
    embeddings = torch.tensor([[2.0, 1.0], [3.0, 1.0], [-1.0, 0.5], [1.0, 0.5], [5.0, 1.0]])
    assert signs.prototypes_used(embeddings, prototypes, unit_norm=True, chunk=2) == 2 / 4
    # With their lengths left in, the long prototype wins all but those that point to the right.
    assert signs.prototypes_used(embeddings, prototypes, unit_norm=False, chunk=2) == 1 / 4


HEALTHY = {"kl": 0.1, "consistency": 2.0, "prototypes_used": 0.8, "effective_rank": 40.0}


@pytest.mark.parametrize(
    ("sign", "value", "expected"),
    [
        ("kl", 2.0, "Views gather on few prototypes: KL 2.00, where 0 is even use and 2.08"),
        ("consistency", 2 * math.log(8), "has not left its start, 4.16"),
        ("prototypes_used", 0.01, "Only 1.0% of the prototypes"),
        ("effective_rank", 1.2, "span 1.2 directions"),
    ],
)
def test_each_sign_has_its_words_and_says_what_to_change(sign, value, expected):
    said = signs.warnings(tiny(), signs=HEALTHY | {sign: value})
    assert list(said) == [sign]
    assert expected in said[sign]
    assert "Raise" in said[sign]


def test_a_healthy_training_hears_nothing_and_nobody_is_judged_at_the_start():
    assert signs.warnings(tiny(), signs=HEALTHY) == {}
    assert signs.warnings(tiny(), signs={}) == {}
    assert signs.too_early(0.01)
    assert not signs.too_early(0.5)
